//! The network goes silent: no socket says so, nothing answers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until, up_to, warm};
use db_core::{CloseReason, Lease, LeaseState};
use db_pool::{Pool, PoolConfig};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

async fn one(pool: &Pool) -> i32 {
    let mut lease = pool.acquire().await.unwrap();
    let one = sqlx::query_scalar("SELECT 1").fetch_one(lease.start()).await.unwrap();
    lease.settle(LeaseState::Clean);
    one
}

/// Scenario 9: stock sqlx lost a whole acquire timeout to each of four half-open connections.
#[tokio::test]
async fn half_open_and_idle_costs_no_caller_an_error() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    let config = PoolConfig {
        validate_after: Duration::from_millis(100),
        validation_timeout: Duration::from_millis(150),
        ..up_to(4)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    warm(&pool, 4).await;
    proxy.half_open();
    // The idle window has to pass: a connection used a moment ago is trusted.
    sleep(Duration::from_millis(150)).await;
    let asked = Instant::now();
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { one(&pool).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(timeout(SOON, caller).await.unwrap().unwrap(), 1);
    }
    // One validation timeout, not one for each connection, and a connect.
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(pool.stats().closed_for(CloseReason::Invalid), 4, "{:?}", pool.stats());
}

/// Scenario 8 and fact 6: four silently dead peers in use cost stock sqlx its four permits for ever.
#[tokio::test]
async fn dead_in_use_gives_the_slots_back() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    let pool = Pool::builder(options, up_to(4)).build().unwrap();
    warm(&pool, 4).await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let mut lease = pool.acquire().await.unwrap();
        callers.push(tokio::spawn(async move {
            let silent = sqlx::raw_sql("SELECT pg_sleep(0.3)").execute(lease.start());
            assert!(
                timeout(Duration::from_millis(600), silent).await.is_err(),
                "the network is dead"
            );
        }));
    }
    sleep(Duration::from_millis(50)).await;
    // The control connection is silent as well.
    proxy.half_open();
    for caller in callers {
        timeout(SOON, caller).await.unwrap().unwrap();
    }
    let gone = Instant::now();
    for _ in 0..8 {
        assert_eq!(timeout(SOON, one(&pool)).await.unwrap(), 1);
    }
    assert!(
        gone.elapsed() < Duration::from_secs(2),
        "the slots took {:?}",
        gone.elapsed()
    );
    until("the dead are buried", async || {
        pool.stats().closed_for(CloseReason::Quarantine) == 4
    })
    .await;
    warm(&pool, 4).await;
    assert_eq!(pool.stats().connects, 8);
}

#[tokio::test]
async fn raw_leases_with_dead_peers_too() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    let pool = Pool::builder(options, up_to(2)).build().unwrap();
    warm(&pool, 2).await;
    let mut leases = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for lease in &mut leases {
        common::run(lease, "SET work_mem = '1234kB'").await;
    }
    proxy.half_open();
    drop(leases);
    let gone = Instant::now();
    assert_eq!(timeout(SOON, one(&pool)).await.unwrap(), 1);
    assert!(gone.elapsed() < Duration::from_secs(3), "{:?}", gone.elapsed());
    until("both are buried", async || {
        pool.stats().closed_for(CloseReason::Quarantine) == 2
    })
    .await;
}

/// A session that the server has ended is noticed by the test after the idle window, and by its first user before.
#[tokio::test]
async fn ended_by_the_server_while_idle() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(PoolConfig {
        validate_after: Duration::from_millis(50),
        ..up_to(3)
    });
    warm(&pool, 3).await;
    admin
        .run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    sleep(Duration::from_millis(80)).await;
    for _ in 0..6 {
        assert_eq!(timeout(SOON, one(&pool)).await.unwrap(), 1);
    }
    assert_eq!(pool.stats().closed_for(CloseReason::Invalid), 3);
}
