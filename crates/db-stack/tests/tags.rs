//! Tags behind statements: the server sees who asks, and prepares no statement anew for it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::rig;
use db_stack::Db;

const OWN: &str = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid() AND $1::int > 0";

/// The text of its own that the server sees.
async fn seen(db: &Db) -> String {
    sqlx::query_scalar(OWN).bind(1).fetch_one(db).await.unwrap()
}

async fn prepared(db: &Db) -> i64 {
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT query FROM%'";
    sqlx::query_scalar(count).fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn the_server_sees_the_tags_and_prepares_each_statement_once() {
    let rig = rig().await;
    let db = rig
        .builder(1)
        .configure(|config| config.tracing.tags = "route=/pay,application=orders".to_owned());
    let db = db.build().unwrap();
    for _ in 0..20 {
        let text = seen(&db).await;
        assert!(
            text.ends_with("$1::int > 0 /*application='orders',route='%2Fpay'*/"),
            "{text}"
        );
    }
    assert_eq!(prepared(&db).await, 1, "it is found by its text");
    let mut tx = db.begin().await.unwrap();
    let text: String = sqlx::query_scalar(OWN).bind(1).fetch_one(&mut *tx).await.unwrap();
    assert!(text.ends_with("*/"), "{text}");
    tx.commit().await.unwrap();
    assert_eq!(prepared(&db).await, 1, "in a transaction, too");
    // Metrics go by the text without them.
    let text = db.metrics().render();
    assert!(
        text.contains(r#"table="pg_stat_activity",operation="select"} 21"#),
        "{text}"
    );
    db.close().await;
}

#[tokio::test]
async fn there_are_none_unless_they_are_asked_for() {
    let rig = rig().await;
    let db = rig.db(1);
    assert_eq!(seen(&db).await, OWN);
    let mut config = (*db.config()).clone();
    config.tracing.tags = "application=orders".to_owned();
    db.reload(config).unwrap();
    assert!(seen(&db).await.ends_with("/*application='orders'*/"));
    let mut config = (*db.config()).clone();
    config.tracing.tags = "Not a tag".to_owned();
    db.reload(config).unwrap_err();
    db.close().await;
}
