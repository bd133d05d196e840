//! The set of idle connections: hot end first, shrinking to the minimum, kept at the minimum.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Log, SOON, rig, until, up_to, warm};
use db_core::{CloseReason, Event};
use db_pool::{Pool, PoolConfig};
use db_testkit::Direction;
use std::{thread, time::Duration};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn the_last_one_back_is_the_first_one_out() {
    let rig = rig().await;
    let pool = rig.pool(up_to(3));
    let leases = [
        pool.acquire().await.unwrap(),
        pool.acquire().await.unwrap(),
        pool.acquire().await.unwrap(),
    ];
    let pids = leases.each_ref().map(|lease| lease.backend_pid());
    let [a, b, c] = leases;
    drop(b);
    drop(c);
    drop(a);
    assert_eq!(pool.acquire().await.unwrap().backend_pid(), pids[0]);
    let hot = pool.acquire().await.unwrap();
    assert_eq!(
        hot.backend_pid(),
        pids[0],
        "and again: no other one is woken for nothing"
    );
    assert_eq!(pool.acquire().await.unwrap().backend_pid(), pids[2]);
}

#[tokio::test]
async fn shrinks_to_the_minimum_under_light_load() {
    let rig = rig().await;
    let idle_timeout = Some(Duration::from_millis(300));
    let pool = rig.pool(PoolConfig {
        min_connections: 2,
        idle_timeout,
        ..up_to(6)
    });
    warm(&pool, 6).await;
    let hot = pool.acquire().await.unwrap().backend_pid();
    // One caller at a time goes on: in a FIFO pool every connection would stay fresh.
    until("shrunk", async || {
        drop(pool.acquire().await.unwrap());
        pool.stats().size == 2
    })
    .await;
    assert_eq!(pool.stats().closed_for(CloseReason::Idle), 4);
    assert_eq!(
        pool.acquire().await.unwrap().backend_pid(),
        hot,
        "the one in use has stayed"
    );
    // Not below, however long nobody comes.
    sleep(Duration::from_millis(700)).await;
    assert_eq!(pool.stats().size, 2);
    let mut admin = rig.admin().await;
    until("the server has let them go", async || admin.sessions().await == 3).await;
}

#[tokio::test]
async fn the_minimum_is_opened_side_by_side() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    // No handshake is done before all of them have begun.
    proxy.delay(Direction::ToClient, Duration::from_millis(500));
    let config = PoolConfig {
        min_connections: 4,
        connect_parallelism: 4,
        ..up_to(8)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    let first = tokio::spawn(pool.acquire());
    // Four, and the control connection.
    until("all have begun", async || proxy.counters().accepted >= 5).await;
    assert_eq!(pool.stats().connects, 0, "none is done yet");
    proxy.delay(Direction::ToClient, Duration::ZERO);
    timeout(SOON, first).await.unwrap().unwrap().unwrap();
    until("all are there", async || pool.stats().idle == 4).await;
    assert_eq!(pool.stats().connects, 4);
}

#[tokio::test]
async fn attempts_side_by_side_are_bounded() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.hang_new();
    let config = PoolConfig {
        connect_parallelism: 3,
        ..up_to(20)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    let callers: Vec<_> = (0..20).map(|_| tokio::spawn(pool.acquire())).collect();
    until("some have begun", async || proxy.counters().accepted >= 4).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        (pool.stats().dialing, proxy.counters().accepted),
        (3, 4),
        "three, and the control connection"
    );
    proxy.heal();
    let mut leases = Vec::new();
    for caller in callers {
        leases.push(timeout(SOON, caller).await.unwrap().unwrap().unwrap());
    }
    assert_eq!(leases.len(), 20);
}

#[tokio::test]
async fn the_minimum_comes_back_after_a_kill() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let validate_after = Duration::from_millis(20);
    let pool = rig.pool(PoolConfig {
        min_connections: 3,
        validate_after,
        ..up_to(5)
    });
    drop(pool.acquire().await.unwrap());
    until("the minimum is there", async || pool.stats().idle == 3).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(pool.acquire().await.unwrap());
    }
    let pids: Vec<_> = leases.iter().map(|lease| lease.backend_pid()).collect();
    drop(leases);
    for pid in pids {
        admin.terminate(pid).await;
    }
    sleep(validate_after * 2).await;
    // One caller notices; it needs one connection, the pool opens all three.
    drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
    until("the minimum is there again", async || pool.stats().idle == 3).await;
    let stats = pool.stats();
    assert_eq!(
        (stats.connects, stats.closed_for(CloseReason::Invalid)),
        (6, 3),
        "{stats:?}"
    );
}

#[tokio::test]
async fn lifetimes_end_apart() {
    let rig = rig().await;
    let config = PoolConfig {
        min_connections: 8,
        max_lifetime: Some(Duration::from_millis(1600)),
        lifetime_jitter: 0.75,
        ..up_to(8)
    };
    let (pool, log) = rig.watched_pool(config);
    warm(&pool, 8).await;
    let ages = |log: &Log| -> Vec<Duration> {
        log.all()
            .into_iter()
            .filter_map(|event| match event {
                Event::Closed {
                    reason: CloseReason::Lifetime,
                    age,
                    ..
                } => Some(age),
                _ => None,
            })
            .collect()
    };
    until("sixteen have ended", async || ages(&log).len() >= 16).await;
    let ages = ages(&log);
    let (shortest, longest) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(*shortest >= Duration::from_millis(400), "{shortest:?}");
    assert!(*longest < Duration::from_millis(1600) + SOON / 4, "{longest:?}");
    // Spread over 1,200 ms: sixteen within 250 ms of each other would be one in a billion.
    assert!(*longest - *shortest > Duration::from_millis(250), "{ages:?}");
    until("and replaced", async || pool.stats().size == 8).await;
}

/// Nothing else runs on this thread while it sleeps, so the reaper can't have been there first.
#[tokio::test]
async fn the_lifetime_is_checked_at_acquire() {
    let rig = rig().await;
    let max_lifetime = Some(Duration::from_millis(300));
    let pool = rig.pool(PoolConfig {
        max_lifetime,
        lifetime_jitter: 0.0,
        ..up_to(1)
    });
    let lease = pool.acquire().await.unwrap();
    let pid = lease.backend_pid();
    drop(lease);
    assert!(pool.try_acquire().is_some(), "young enough");
    thread::sleep(Duration::from_millis(350));
    assert!(pool.try_acquire().is_none(), "too old");
    let next = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    assert_ne!(next.backend_pid(), pid);
    assert_eq!(pool.stats().closed_for(CloseReason::Lifetime), 1);
}

#[tokio::test]
async fn the_lifetime_is_checked_at_release() {
    let rig = rig().await;
    let max_lifetime = Some(Duration::from_millis(200));
    let pool = rig.pool(PoolConfig {
        max_lifetime,
        lifetime_jitter: 0.0,
        ..up_to(1)
    });
    let lease = pool.acquire().await.unwrap();
    sleep(Duration::from_millis(250)).await;
    assert_eq!(pool.stats().size, 1, "a lease in use is left alone");
    drop(lease);
    let stats = pool.stats();
    assert_eq!(
        (stats.idle, stats.closed_for(CloseReason::Lifetime)),
        (0, 1),
        "{stats:?}"
    );
}
