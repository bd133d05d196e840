//! Whatever a caller does to a raw lease, the next caller gets the session as it was set up.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, run, text, until, up_to};
use db_core::CloseReason;
use db_pool::{Pool, SessionConfig};
use sqlx::Connection;
use std::time::Duration;
use tokio::time::timeout;

/// What a caller leaves behind, and a question whose answer shows it.
const STAINS: &[(&str, &str)] = &[
    ("SET work_mem = '1234kB'", "SHOW work_mem"),
    ("SET search_path = pg_catalog", "SHOW search_path"),
    (
        "SET default_transaction_read_only = on",
        "SHOW default_transaction_read_only",
    ),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW default_transaction_isolation",
    ),
    (
        "SELECT set_config('app.tenant', 'other', false)",
        "SELECT coalesce(nullif(current_setting('app.tenant', true), ''), 'none')",
    ),
    ("SET ROLE pg_monitor", "SELECT current_user::text"),
    (
        "SET SESSION AUTHORIZATION pg_monitor",
        "SELECT session_user || '/' || current_user",
    ),
    (
        "CREATE TEMP TABLE stain (n int)",
        "SELECT to_regclass('pg_temp.stain')::text",
    ),
    ("LISTEN stain", "SELECT count(*)::text FROM pg_listening_channels()"),
    (
        "SELECT pg_advisory_lock(4711); SELECT pg_advisory_lock_shared(4712)",
        "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    (
        "BEGIN; DECLARE stain CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*)::text FROM pg_cursors",
    ),
    (
        "PREPARE stain AS SELECT 1; PREPARE \"another stain\" AS SELECT 2",
        "SELECT count(*)::text FROM pg_prepared_statements WHERE from_sql",
    ),
    // In a transaction everything above must be undone too, and the transaction itself.
    ("BEGIN", "SELECT (now() <> statement_timestamp())::text"),
    ("BEGIN; SET LOCAL work_mem = '1234kB'; LISTEN stain", "SHOW work_mem"),
    (
        "BEGIN; CREATE TEMP TABLE stain (n int)",
        "SELECT to_regclass('pg_temp.stain')::text",
    ),
    (
        "BEGIN; SAVEPOINT a; SAVEPOINT b",
        "SELECT (now() <> statement_timestamp())::text",
    ),
];

#[tokio::test]
async fn nothing_survives_to_the_next_caller() {
    let pool = rig_pool().await;
    for (stain, question) in STAINS {
        let mut lease = pool.1.acquire().await.unwrap();
        let (pid, before) = (lease.backend_pid(), text(&mut lease, question).await);
        run(&mut lease, stain).await;
        assert_ne!(
            (stain, text(&mut lease, question).await),
            (stain, before.clone()),
            "the question shows the stain"
        );
        drop(lease);

        let mut next = timeout(SOON, pool.1.acquire()).await.unwrap().unwrap();
        assert_eq!((stain, text(&mut next, question).await), (stain, before));
        assert_eq!(next.backend_pid(), pid, "cleaned, not thrown away, after {stain}");
    }
    assert_eq!(pool.1.stats().closed, [0; CloseReason::ALL.len()]);
}

async fn rig_pool() -> (common::Rig, Pool) {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    (rig, pool)
}

#[tokio::test]
async fn an_aborted_transaction_is_rolled_back() {
    let (rig, pool) = rig_pool().await;
    rig.admin().await.run("CREATE TABLE t (n int)").await;
    let mut lease = pool.acquire().await.unwrap();
    let pid = lease.backend_pid();
    run(&mut lease, "BEGIN; INSERT INTO t VALUES (1)").await;
    sqlx::raw_sql("SELECT 1/0").execute(&mut *lease).await.unwrap_err();
    drop(lease);
    let mut next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    assert_eq!(next.backend_pid(), pid);
    run(&mut next, "INSERT INTO t VALUES (2)").await;
    // Seen from beside: the insert of the second caller is committed, that of the first one is gone.
    assert_eq!(rig.admin().await.number("SELECT coalesce(sum(n), 0) FROM t").await, 2);
}

#[tokio::test]
async fn a_forgotten_sqlx_transaction_does_not_leave_its_depth_behind() {
    let (rig, pool) = rig_pool().await;
    rig.admin().await.run("CREATE TABLE t (n int)").await;
    let mut lease = pool.acquire().await.unwrap();
    // sqlx still counts one transaction: its next `begin` would only set a savepoint.
    std::mem::forget(lease.begin().await.unwrap());
    drop(lease);
    let mut next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    let mut tx = next.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO t VALUES (1)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.number("SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_dropped_transaction_and_half_read_rows_are_cleaned_up() {
    let (rig, pool) = rig_pool().await;
    rig.admin().await.run("CREATE TABLE t (n int)").await;
    let mut lease = pool.acquire().await.unwrap();
    let pid = lease.backend_pid();
    {
        let mut tx = lease.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO t VALUES (1)")
            .execute(&mut *tx)
            .await
            .unwrap();
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 100000)").fetch(&mut *tx);
        assert_eq!(futures_util::TryStreamExt::try_next(&mut rows).await.unwrap(), Some(1));
    }
    drop(lease);
    let mut next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    assert_eq!(next.backend_pid(), pid);
    assert_eq!(text(&mut next, "SELECT count(*)::text FROM t").await, "0");
}

#[tokio::test]
async fn the_settings_of_the_start_survive() {
    let rig = rig().await;
    let session = SessionConfig {
        application_name: "orders".to_owned(),
        statement_timeout: Some(Duration::from_secs(77)),
        lock_timeout: Some(Duration::from_secs(7)),
        client_connection_check_interval: Some(Duration::from_millis(333)),
        extra: [("work_mem".to_owned(), "5555kB".to_owned())].into(),
        ..SessionConfig::default()
    };
    let pool = Pool::builder(rig.options(), up_to(1)).session(session).build().unwrap();
    let settings = [
        ("application_name", "orders"),
        ("statement_timeout", "77s"),
        ("lock_timeout", "7s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("client_connection_check_interval", "333ms"),
        ("work_mem", "5555kB"),
    ];
    let mut pids = std::collections::BTreeSet::new();
    for overwritten in [None, Some("1s"), Some("1s")] {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        pids.insert(lease.backend_pid());
        for (name, value) in settings {
            assert_eq!(
                (name, text(&mut lease, &format!("SHOW {name}")).await.as_str()),
                (name, value)
            );
        }
        if let Some(value) = overwritten {
            for (name, _) in settings.iter().filter(|(name, _)| *name != "work_mem") {
                run(&mut lease, &format!("SET {name} = '{value}'")).await;
            }
            run(&mut lease, "RESET ALL").await;
        }
    }
    assert_eq!(pids.len(), 1, "one connection served all");
}

#[tokio::test]
async fn prepared_statements_stay_prepared() {
    let (_rig, pool) = rig_pool().await;
    let prepared = "SELECT count(*)::text FROM pg_prepared_statements";
    let mut counts = Vec::new();
    for round in 0..5 {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        let n: i32 = sqlx::query_scalar("SELECT $1::int4 + 1")
            .bind(round)
            .fetch_one(&mut *lease)
            .await
            .unwrap();
        assert_eq!(n, round + 1);
        run(&mut lease, "SET work_mem = '1234kB'").await;
        counts.push(text(&mut lease, prepared).await);
    }
    assert_eq!(counts, ["1"; 5], "prepared once and found again after each reset");
    assert_eq!(pool.stats().cleaned, 4);
}

#[tokio::test]
async fn giving_back_does_not_wait_and_the_lease_counts_as_quarantined_meanwhile() {
    let (_rig, pool) = rig_pool().await;
    let mut lease = pool.acquire().await.unwrap();
    run(&mut lease, "SET work_mem = '1234kB'").await;
    drop(lease);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.quarantined, stats.idle), (0, 1, 0), "{stats:?}");
    assert!(pool.try_acquire().is_none(), "not before it is clean");
    until("the lease is clean", async || pool.stats().idle == 1).await;
    assert_eq!(pool.stats().quarantined, 0);
}

#[tokio::test]
async fn a_lease_that_ran_only_the_stacks_own_statements_costs_no_trip() {
    use db_core::{Lease, LeaseState};
    let (_rig, pool) = rig_pool().await;
    let mut lease = pool.acquire().await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(lease.start()).await.unwrap();
    lease.settle(LeaseState::Clean);
    drop(lease);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.quarantined, stats.cleaned), (1, 0, 0), "{stats:?}");
}
