//! Switches are flipped by writing a file; a file that is wrong flips nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{rig, until};
use db_stack::{Db, DbConfig, Error, Mode, QueryClass};
use std::{fs, time::Duration};

const OFTEN: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_mode_goes_from_observe_to_enforce_and_back() {
    let rig = rig().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.toml");
    let url = rig.database.url();
    let write = |mode: &str| {
        fs::write(
            &path,
            format!("[connection]\nurl = {url:?}\n[timeout]\nmode = \"{mode}\"\n"),
        )
    };
    write("observe").unwrap();
    let settings = {
        let path = path.clone();
        move || DbConfig::from_toml_file(&path)
    };
    let db = Db::builder().config(settings().unwrap()).connect().await.unwrap();
    let following = db.follow(OFTEN, settings);

    let long = async || {
        let db = db.class(QueryClass::Instant);
        sqlx::query("SELECT pg_sleep(0.4)")
            .execute(&db)
            .await
            .map_err(Error::from)
    };
    long().await.expect("a limit that is only observed");
    assert!(
        db.metrics()
            .render()
            .contains(r#"ava_db_would_have_total{reason="timed_out"} 1"#),
        "the shadow counter tells of it"
    );

    write("enforce").unwrap();
    until("the switch", async || db.config().timeout.mode == Mode::Enforce).await;
    assert!(matches!(long().await, Err(Error::Timeout(_))));

    fs::write(&path, "timeout.mode = \"perhaps\"").unwrap();
    until("the refusal", async || following.stats().refused == 1).await;
    assert_eq!(db.config().timeout.mode, Mode::Enforce, "those in force stay");
    assert!(following.stats().problem.unwrap().contains("timeout.mode"));
    fs::remove_file(&path).unwrap();
    until("another refusal", async || following.stats().refused == 2).await;

    write("observe").unwrap();
    until("back", async || db.config().timeout.mode == Mode::Observe).await;
    long().await.expect("rolled back");
    assert_eq!(following.stats().problem, None);
    assert_eq!(following.stats().reloads, 2);

    drop(following);
    write("enforce").unwrap();
    tokio::time::sleep(10 * OFTEN).await;
    assert_eq!(db.config().timeout.mode, Mode::Observe, "nobody follows any more");
    db.close().await;
}

#[tokio::test]
async fn following_keeps_no_database_alive() {
    let rig = rig().await;
    let db = rig.db(1);
    let config = (*db.config()).clone();
    let alive = std::sync::Arc::new(());
    let held = alive.clone();
    let following = db.follow(OFTEN, move || {
        let _ = &held;
        Ok(config.clone())
    });
    drop(db);
    // The task has ended when it has let go of its source.
    until("the end of the task", async || {
        std::sync::Arc::strong_count(&alive) == 1
    })
    .await;
    drop(following);
}
