//! A connection is tested only after it was idle for a while: the hot path makes no round trip of the pool's own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, rig, until, up_to, warm};
use db_pool::{Pool, PoolConfig};
use db_testkit::FaultProxy;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The pool's test is one Sync message.
const SYNC: u64 = 5;

async fn setup(validate_after: Duration) -> (Rig, FaultProxy, Pool) {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    let config = PoolConfig {
        validate_after,
        ..up_to(1)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    warm(&pool, 1).await;
    // The control connection's handshake would be counted otherwise.
    let mut admin = rig.admin().await;
    until("the control connection is up", async || admin.sessions().await == 2).await;
    let mut before = 0;
    until("it is quiet", async || {
        sleep(Duration::from_millis(20)).await;
        before == std::mem::replace(&mut before, proxy.counters().bytes_to_server)
    })
    .await;
    (rig, proxy, pool)
}

#[tokio::test]
async fn never_within_the_window() {
    let (_rig, proxy, pool) = setup(Duration::from_secs(60)).await;
    let before = proxy.counters();
    for _ in 0..100 {
        drop(pool.acquire().await.unwrap());
    }
    let seen = proxy.counters().since(&before);
    assert_eq!((seen.bytes_to_server, seen.bytes_to_client), (0, 0));
}

#[tokio::test]
async fn once_after_it() {
    let window = Duration::from_millis(300);
    let (_rig, proxy, pool) = setup(window).await;
    drop(pool.acquire().await.unwrap());
    let before = proxy.counters();
    sleep(window + Duration::from_millis(50)).await;
    let asked = Instant::now();
    for _ in 0..10 {
        drop(pool.acquire().await.unwrap());
    }
    assert!(asked.elapsed() < window, "too slow to tell the window");
    assert_eq!(proxy.counters().since(&before).bytes_to_server, SYNC);
}

#[tokio::test]
async fn every_time_if_the_window_is_zero() {
    let (_rig, proxy, pool) = setup(Duration::ZERO).await;
    let before = proxy.counters();
    for _ in 0..10 {
        drop(pool.acquire().await.unwrap());
        // An idle time of nothing at all is not over the window.
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(proxy.counters().since(&before).bytes_to_server, 10 * SYNC);
}
