//! Prepared statements: what a new connection prepares, what is counted, and when it is told that the cache is too small.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{rig, until, up_to};
use db_core::{Call, Event, Rows, Run, Service, Statement};
use db_pool::{Pool, PoolConfig};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::time::Duration;
use tokio::time::Instant;

async fn ask(pool: &Pool, sql: &str, argument: i64) -> Rows {
    let statement = Statement::all(sqlx::query(AssertSqlSafe(sql.to_owned())).bind(argument)).unwrap();
    Run(pool.clone()).call(&Call::here(), &statement).await.unwrap()
}

/// The texts that a connection holds, with the types of their parameters.
async fn held(pg: &mut PgConnection) -> Vec<(String, String)> {
    let sql = "SELECT statement, parameter_types::text FROM pg_prepared_statements ORDER BY statement COLLATE \"C\"";
    sqlx::query_as(sql).persistent(false).fetch_all(pg).await.unwrap()
}

fn warm(count: u32) -> PoolConfig {
    let mut config = up_to(4);
    config.statements.warm = count;
    config.statements.warm_within = Duration::from_secs(5);
    config
}

#[tokio::test]
async fn a_new_connection_has_the_hottest_statements_with_the_callers_types() {
    let rig = rig().await;
    rig.admin().await.run("CREATE TABLE hot (id int4, n int4)").await;
    let pool = rig.pool(warm(2));
    // The server would infer int4; the callers send int8.
    for (sql, times) in [
        ("SELECT n FROM hot WHERE id = $1", 20),
        ("SELECT n + 1 FROM hot WHERE id = $1", 10),
        ("SELECT n + 2 FROM hot WHERE id = $1", 1),
    ] {
        for n in 0..times {
            ask(&pool, sql, n).await;
        }
    }
    let first = pool.acquire().await.unwrap();
    let mut second = pool.acquire().await.unwrap();
    let expected = ["SELECT n + 1 FROM hot WHERE id = $1", "SELECT n FROM hot WHERE id = $1"];
    let expected = expected.map(|sql| (sql.to_owned(), "{bigint}".to_owned()));
    assert_eq!(held(&mut second).await, expected);
    let stats = pool.stats();
    drop((first, second));
    let statements = pool.statements();
    assert_eq!((statements.warmed, statements.prepares, stats.size), (2, 3, 2));
    assert_eq!(statements.fill, [3, 2]);
    let top = &statements.top()[0];
    assert_eq!((top.uses, top.hits, top.prepares), (20, 19, 1), "{top:?}");
}

#[tokio::test]
async fn a_locked_table_and_one_that_is_gone_keep_no_connection_from_opening() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run("CREATE TABLE locked (id int8); CREATE TABLE gone (id int8)")
        .await;
    let pool = rig.pool(warm(8));
    for n in 0..5 {
        ask(&pool, "SELECT * FROM locked WHERE id = $1", n).await;
    }
    ask(&pool, "SELECT * FROM gone WHERE id = $1", 1).await;
    admin.run("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await;
    let held_out = pool.acquire().await.unwrap();
    let since = Instant::now();
    let mut second = pool.acquire().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *second).await.unwrap();
    assert_eq!(one, 1);
    admin.run("ROLLBACK; DROP TABLE gone").await;
    let third = pool.acquire().await.unwrap();
    assert_eq!(pool.stats().connect_failures, 0);
    drop((held_out, second, third));
    pool.close().await;
}

#[tokio::test]
async fn the_epoch_makes_every_connection_prepare_again_and_it_is_counted() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (id int8)").await;
    // One connection: the next caller waits until it is clean.
    let pool = rig.pool(PoolConfig {
        max_connections: 1,
        ..warm(0)
    });
    ask(&pool, "SELECT * FROM t WHERE id = $1", 1).await;
    admin.run("ALTER TABLE t ADD COLUMN more int").await;
    let statement = Statement::all(sqlx::query("SELECT * FROM t WHERE id = $1").bind(1_i64)).unwrap();
    let stale = Run(pool.clone()).call(&Call::here(), &statement).await;
    assert!(stale.is_err(), "the plan is out of date, and nobody retries here");
    ask(&pool, "SELECT * FROM t WHERE id = $1", 1).await;
    let stats = pool.statements();
    assert_eq!((stats.prepares, stats.again, stats.evictions), (2, 1, 0));
    assert_eq!(stats.fill, [1]);
    assert_eq!(pool.statement_totals().stale, 1);
    pool.close().await;
    assert!(pool.statements().fill.is_empty());
}

#[tokio::test]
async fn a_cache_that_is_too_small_is_told_once() {
    let rig = rig().await;
    let (log, observers) = common::Log::new();
    let pool = Pool::builder(rig.options().statement_cache_capacity(4), up_to(1))
        .observers(observers)
        .build()
        .unwrap();
    for round in 0..40_i64 {
        for text in 0..6 {
            ask(&pool, &format!("SELECT $1::int8 + {text}"), round).await;
        }
    }
    let stats = pool.statements();
    assert_eq!(stats.fill, [4]);
    assert_eq!(stats.prepares, 240, "round robin over more than it holds never hits");
    assert_eq!((stats.again, stats.evictions), (234, 236));
    let totals = pool.statement_totals();
    assert_eq!((totals.used, totals.thrashed), (0, 234));
    assert_eq!(
        log.count(|event| matches!(event, Event::StatementsThrash { capacity: 4, .. })),
        1
    );
    // All the texts differ in a literal alone.
    assert_eq!(stats.statements.len(), 1);
}

#[tokio::test]
async fn a_text_is_kept_from_its_nth_use_on_and_without_a_cache_never() {
    let rig = rig().await;
    let mut config = up_to(1);
    config.statements.prepare_from = 3;
    let pool = rig.pool(config);
    for n in 1..=5 {
        ask(&pool, "SELECT $1::int8 + 70", n).await;
        let mut lease = pool.acquire().await.unwrap();
        assert_eq!(held(&mut lease).await.len(), usize::from(n >= 3), "use {n}");
    }
    let none = Pool::builder(rig.options().statement_cache_capacity(0), up_to(1))
        .build()
        .unwrap();
    for n in 0..3 {
        ask(&none, "SELECT $1::int8 + 71", n).await;
    }
    let mut lease = none.acquire().await.unwrap();
    // The driver would name each of them and close none.
    assert_eq!(held(&mut lease).await, []);
    drop(lease);
    until("both are quiet", async || {
        pool.stats().in_use + none.stats().in_use == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_prepared_by_hand_does_not_upset_the_account() {
    let rig = rig().await;
    let pool = rig.pool(warm(0));
    let mut lease = pool.acquire().await.unwrap();
    for n in 0..120 {
        let text = format!("SELECT $1::int8 + 1000 + {n}");
        let raw = sqlx::query(AssertSqlSafe(text)).bind(1_i64);
        (&mut *lease).execute(raw).await.unwrap();
    }
    assert_eq!(lease.cached_statements_size(), 100);
    drop(lease);
    for n in 0..50 {
        ask(&pool, "SELECT $1::int8 + 72", n).await;
    }
    let top = pool.statements().top()[0].clone();
    assert_eq!(
        (top.uses, top.hits),
        (50, 50),
        "it was prepared unseen among the others, and counts as found: {top:?}"
    );
    pool.close().await;
}
