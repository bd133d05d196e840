//! The slow-query log in its table: written beside the pool, without arguments, for each day, with an end.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until};
use std::time::Duration;
use tokio::time::timeout;

const SCHEMA: &str = include_str!("../../../migrations/0010_slow_queries.up.sql");

#[tokio::test]
async fn slow_calls_are_in_the_table_and_the_log_never_logs_itself() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run(SCHEMA).await;
    let db = rig
        .builder(1)
        .configure(|config| {
            config.slow_query.threshold = Duration::from_millis(50);
            config.slow_query.table = true;
            config.slow_query.write_every = Duration::from_millis(50);
        })
        .build()
        .unwrap();
    let secret = "canary";
    for _ in 0..3 {
        sqlx::query("SELECT pg_sleep(0.1), $1::text")
            .bind(secret)
            .execute(&db)
            .await
            .unwrap();
    }
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    // The pool's only connection is held: the log has its own.
    let held = db.acquire().await.unwrap();
    let rows = "SELECT count(*) FROM slow_queries WHERE arguments IS NULL AND summary LIKE 'SELECT%'";
    until("three rows", async || admin.number(rows).await == 3).await;
    drop(held);
    timeout(SOON, db.close()).await.unwrap();
    let worst = "SELECT fingerprint, calls::int8 FROM slow_queries_worst_today";
    let worst: Vec<(i64, i64)> = sqlx::query_as(worst).fetch_all(&mut admin.0).await.unwrap();
    assert_eq!(worst.len(), 1, "neither the quick one nor the log's own");
    assert_eq!(worst[0].1, 3);
    assert_eq!(
        admin
            .number("SELECT count(*) FROM slow_queries_new_since_yesterday")
            .await,
        1
    );
    let all: Vec<String> = sqlx::query_scalar("SELECT s::text FROM slow_queries AS s")
        .fetch_all(&mut admin.0)
        .await
        .unwrap();
    assert!(all.iter().all(|row| !row.contains(secret)), "{all:?}");
    let text = db.metrics().render();
    assert!(text.contains("ava_db_slow_query_log_written_total 3"), "{text}");
    // Old days go.
    let old = "CREATE TABLE slow_queries_20200101 PARTITION OF slow_queries \
               FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')";
    admin.run(old).await;
    admin.run("SELECT slow_queries_turn(interval '14 days')").await;
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'slow_queries_2%' AND relkind = 'r'";
    assert_eq!(admin.number(left).await, 2, "today and tomorrow");
}

#[tokio::test]
async fn a_missing_table_costs_entries_and_nothing_else() {
    let rig = rig().await;
    let db = rig
        .builder(1)
        .configure(|config| {
            config.slow_query.threshold = Duration::ZERO;
            config.slow_query.table = true;
        })
        .build()
        .unwrap();
    for _ in 0..20 {
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
    }
    timeout(SOON, db.close()).await.unwrap();
    let text = db.metrics().render();
    let dropped = text
        .lines()
        .find(|line| line.contains("log_dropped_total{reason=\"failed\"}"))
        .unwrap();
    assert!(!dropped.ends_with(" 0"), "{dropped}");
}
