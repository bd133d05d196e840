//! A caller that gives up loses nothing: neither a connection that is being opened, nor a lease that was on its way.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until, up_to, warm};
use db_core::{CloseReason, Lease, LeaseState};
use db_pool::{Pool, PoolConfig};
use db_testkit::Direction;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Fact 7: 400 callers with 100 ms deadlines made sqlx open 1,238 connections in 5 s over 8 slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_callers_opens_no_more_than_the_pool_may_have() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    // A statement of 30 ms on 8 connections: far less than 400 callers in a loop ask for.
    proxy.delay(Direction::ToClient, Duration::from_millis(10));
    let pool = Pool::builder(options, up_to(8)).build().unwrap();
    let served = Arc::new(AtomicU32::new(0));
    let end = Instant::now() + Duration::from_secs(2);
    let callers: Vec<_> = (0..400)
        .map(|_| {
            let (pool, served) = (pool.clone(), served.clone());
            tokio::spawn(async move {
                while Instant::now() < end {
                    let call = async {
                        let mut lease = pool.acquire().await.unwrap();
                        sqlx::raw_sql("SELECT pg_sleep(0.02)")
                            .execute(lease.start())
                            .await
                            .unwrap();
                        lease.settle(LeaseState::Clean);
                    };
                    if timeout(Duration::from_millis(100), call).await.is_ok() {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let (served, connects) = (served.load(Ordering::Relaxed), proxy.counters().accepted);
    // Eight, the control connection and a spare. Statements are abandoned as well: on a machine that is too busy to
    // cancel one in time its connection is closed.
    let closed = pool.stats().closed_for(CloseReason::Quarantine);
    assert!(
        connects <= 10 + closed && closed <= 10,
        "{connects} connections opened for 8 slots, {closed} closed"
    );
    // How many is the business of the layers that shed calls; here it is that the pool keeps working at all.
    assert!(served > 0, "nobody was served: {:?}", pool.stats());
    proxy.heal();
    warm(&pool, 8).await;
}

/// Connecting takes longer than any caller waits: it is done all the same, and serves a later one.
#[tokio::test]
async fn a_connection_that_nobody_waits_for_any_more_is_kept() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.delay(Direction::Both, Duration::from_millis(60));
    let pool = Pool::builder(options, up_to(4)).build().unwrap();
    for _ in 0..4 {
        assert!(timeout(Duration::from_millis(20), pool.acquire()).await.is_err());
    }
    until("the connection is there", async || pool.stats().idle > 0).await;
    assert!(pool.try_acquire().is_some());
    let stats = pool.stats();
    assert!(stats.connects <= 4 && stats.connect_failures == 0, "{stats:?}");
    assert_eq!(stats.waiting, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_on_their_way_to_callers_that_leave_go_to_others() {
    let rig = rig().await;
    let pool = rig.pool(PoolConfig {
        max_waiting: 10_000,
        ..up_to(3)
    });
    warm(&pool, 3).await;
    let end = Instant::now() + Duration::from_secs(1);
    let callers: Vec<_> = (0..60)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while Instant::now() < end {
                    // Not a multiple of the timer's tick: the last poll comes at any point of the hand-off.
                    let patience = Instant::now() + Duration::from_micros(200 + 37 * i);
                    if let Ok(lease) = timeout_at(patience, pool.acquire()).await {
                        let _lease = lease.unwrap();
                        tokio::task::yield_now().await;
                    }
                    if i % 7 == 0 {
                        let left = pool.acquire();
                        drop(left);
                        let mut left = Box::pin(pool.acquire());
                        drop(futures_util::poll!(&mut left));
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        timeout(SOON, caller).await.unwrap().unwrap();
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.size, stats.in_use, stats.waiting, stats.idle),
        (3, 0, 0, 3),
        "{stats:?}"
    );
    assert_eq!(stats.connects, 3);
    warm(&pool, 3).await;
}

#[tokio::test]
async fn a_test_of_an_idle_connection_that_is_abandoned_loses_nothing() {
    let rig = rig().await;
    let pool = rig.pool(PoolConfig {
        validate_after: Duration::ZERO,
        ..up_to(1)
    });
    warm(&pool, 1).await;
    for polls in 0..4 {
        let mut acquire = Box::pin(pool.acquire());
        for _ in 0..polls {
            if futures_util::poll!(&mut acquire).is_ready() {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        drop(acquire);
        drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
    }
    assert_eq!(pool.stats().connects, 1);
}
