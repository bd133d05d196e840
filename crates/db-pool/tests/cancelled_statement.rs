//! A statement whose caller has gone is stopped on the server, and its connection comes back soon and clean.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until, up_to};
use db_core::{CloseReason, Lease, LeaseState};
use db_pool::Pool;
use sqlx::AssertSqlSafe;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Runs `sql` as the stack does, and goes away after `patience`.
async fn abandon(pool: &Pool, sql: &'static str, patience: Duration) {
    let mut lease = pool.acquire().await.unwrap();
    let running = sqlx::raw_sql(sql).execute(lease.start());
    assert!(timeout(patience, running).await.is_err(), "it was to be abandoned");
}

#[tokio::test]
async fn the_server_stops_and_the_slot_is_back_soon() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(1));
    abandon(&pool, "SELECT pg_sleep(60)", Duration::from_millis(200)).await;
    let gone = Instant::now();
    let mut next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    assert!(
        gone.elapsed() < Duration::from_secs(2),
        "the slot took {:?}",
        gone.elapsed()
    );
    assert_eq!(common::text(&mut next, "SELECT 'mine'").await, "mine");
    assert_eq!(admin.running("pg_sleep").await, 0);
    let stats = pool.stats();
    assert_eq!(
        (stats.cancelled, stats.cleaned, stats.connects),
        (1, 1, 1),
        "cancelled and reused: {stats:?}"
    );
}

#[tokio::test]
async fn the_same_for_a_raw_lease() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(1));
    let mut lease = pool.acquire().await.unwrap();
    let sleeping = sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut *lease);
    assert!(timeout(Duration::from_millis(200), sleeping).await.is_err());
    drop(lease);
    drop(timeout(Duration::from_secs(3), pool.acquire()).await.unwrap().unwrap());
    assert_eq!(admin.running("pg_sleep").await, 0);
    assert_eq!(pool.stats().connects, 1);
}

#[tokio::test]
async fn a_statement_that_ends_at_once_leaves_a_clean_connection() {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    for _ in 0..20 {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        // Sent, and abandoned before the answer is read.
        let mut query = Box::pin(sqlx::raw_sql("SELECT 1").execute(lease.start()));
        let polled = futures_util::poll!(&mut query);
        drop(query);
        if polled.is_ready() {
            lease.settle(LeaseState::Clean);
        }
    }
    drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
    assert_eq!(pool.stats().connects, 1);
}

/// Fact 3: cancelling and using the connection at once hits the next statement. Abandoned at the moment of completion,
/// again and again, no later caller may see it.
#[tokio::test]
async fn the_next_caller_is_never_hit() {
    let rig = rig().await;
    let pool = rig.pool(up_to(2));
    let deadline = Instant::now() + Duration::from_secs(4);
    let mut abandoned = 0;
    for round in 0_i32.. {
        if round >= 600 || Instant::now() > deadline {
            break;
        }
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        let running = sqlx::raw_sql("SELECT pg_sleep(0.003)").execute(lease.start());
        // The timer has a resolution of 1 ms, the jitter of scheduling does the rest.
        match timeout(Duration::from_millis(2 + u64::from(fastrand::bool())), running).await {
            Ok(done) => {
                done.unwrap();
                lease.settle(LeaseState::Clean);
            }
            Err(_) => abandoned += 1,
        }
        drop(lease);
        let mut next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        let answer: i32 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {round}")))
            .fetch_one(next.start())
            .await
            .unwrap();
        next.settle(LeaseState::Clean);
        assert_eq!(answer, round);
    }
    assert!(abandoned > 50, "only {abandoned} were abandoned");
    assert!(pool.stats().cancelled > 0, "{:?}", pool.stats());
}

/// Without the control path the connection is closed, which is safe: the server notices and stops.
#[tokio::test]
async fn without_a_control_path_the_server_stops_on_its_own() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let (proxy, options) = rig.proxy().await;
    let pool = Pool::builder(options, up_to(2)).build().unwrap();
    drop(pool.acquire().await.unwrap());
    // The control connection is the other session; then nobody can connect any more.
    until("the control connection is up", async || admin.sessions().await == 2).await;
    let mut lease = pool.acquire().await.unwrap();
    let mine = lease.backend_pid();
    proxy.refuse_new();
    admin
        .run(&format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid NOT IN (pg_backend_pid(), {mine})"
        ))
        .await;
    let running = sqlx::raw_sql("SELECT pg_sleep(60)").execute(lease.start());
    assert!(timeout(Duration::from_millis(200), running).await.is_err());
    drop(lease);
    until("the connection is closed", async || pool.stats().size == 0).await;
    assert_eq!(pool.stats().closed_for(CloseReason::Quarantine), 1);
    until("the server has noticed", async || admin.running("pg_sleep").await == 0).await;
    proxy.heal();
    common::warm(&pool, 2).await;
}

#[tokio::test]
async fn many_abandoned_at_once_are_all_stopped() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(8));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { abandon(&pool, "SELECT pg_sleep(60)", Duration::from_millis(500)).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    until("all are clean", async || pool.stats().idle == pool.stats().size).await;
    assert_eq!(admin.running("pg_sleep").await, 0);
    let stats = pool.stats();
    assert_eq!((stats.cancelled, stats.size, stats.connects), (8, 8, 8), "{stats:?}");
    // Nobody is cancelled later than that.
    sleep(Duration::from_millis(50)).await;
    common::warm(&pool, 8).await;
}
