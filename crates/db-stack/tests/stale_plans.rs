//! A change of schema under cached statements is not the callers' business.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig};
use db_core::RetryCause;
use db_stack::Db;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// Reads by every kind of query, and a write, until told to stop; the error is the first one that was seen.
async fn work(db: Db, stop: Arc<AtomicBool>) -> sqlx::Result<u64> {
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        sqlx::query("SELECT n FROM t").fetch_all(&db).await?;
        sqlx::query("SELECT * FROM t WHERE id = $1")
            .bind(1)
            .fetch_one(&db)
            .await?;
        sqlx::query("UPDATE t SET id = id WHERE id = $1 RETURNING n")
            .bind(2)
            .fetch_optional(&db)
            .await?;
        calls += 3;
    }
    Ok(calls)
}

#[tokio::test]
async fn no_caller_sees_a_change_of_schema() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run("CREATE TABLE t (id int, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 10) AS i")
        .await;
    let db = rig.db(4);
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(work(db.clone(), stop.clone()));
    }
    for round in 0..6 {
        sleep(Duration::from_millis(100)).await;
        admin
            .run(match round % 2 {
                0 => "ALTER TABLE t ALTER n TYPE bigint",
                _ => "ALTER TABLE t ALTER n TYPE int",
            })
            .await;
    }
    sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0;
    while let Some(done) = timeout(SOON, tasks.join_next()).await.unwrap() {
        calls += done.unwrap().expect("no caller sees it");
    }
    let stale = db.retries().cause(RetryCause::StalePlan).retries;
    assert!(calls > 100 && stale > 0, "{calls} calls, {stale} stale plans");
    assert_eq!(db.stats().connects, 4, "no connection was lost over it");
}

#[tokio::test]
async fn deallocate_all_by_a_guest_is_not_the_callers_business() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for _ in 0..2 {
        sqlx::query("SELECT n FROM t").fetch_all(&db).await.unwrap();
        let mut lease = db.acquire().await.unwrap();
        sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *lease).await.unwrap();
    }
    sqlx::query("SELECT n FROM t").fetch_all(&db).await.unwrap();
    assert_eq!(db.retries().cause(RetryCause::LostPlan).retries, 2);
}
