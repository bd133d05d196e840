//! Those who wait are served in the order in which they came, straight from the one who gives back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, refusal, rig, until, up_to};
use db_core::{AcquireFailure, Event, Result, config::Mode};
use db_pool::{Pool, PoolConfig, PoolLease};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::{task::JoinHandle, time::timeout};

/// `count` tasks that wait, queued one after the other.
async fn queue<T: Send + 'static>(
    pool: &Pool,
    count: u32,
    then: impl Fn(u32, Result<PoolLease>) -> T + Clone + Send + Sync + 'static,
) -> Vec<JoinHandle<T>> {
    let mut tasks = Vec::new();
    for i in 0..count {
        let (pool, then) = (pool.clone(), then.clone());
        let before = pool.stats().waiting;
        tasks.push(tokio::spawn({
            let pool = pool.clone();
            async move { then(i, pool.acquire().await) }
        }));
        until("it waits", async || pool.stats().waiting == before + 1).await;
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_come_first_served() {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    let held = pool.acquire().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting = queue(&pool, 20, {
        let order = order.clone();
        move |i, lease| {
            let _lease = lease.unwrap();
            order.lock().push(i);
        }
    })
    .await;
    drop(held);
    for waiter in waiting {
        timeout(SOON, waiter).await.unwrap().unwrap();
    }
    assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    assert_eq!(pool.stats().connects, 1);
}

#[tokio::test]
async fn a_newcomer_does_not_overtake() {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    let held = pool.acquire().await.unwrap();
    let mut waiting = queue(&pool, 2, |_, lease| lease.unwrap()).await;
    drop(held);
    // The waiter has not run yet, but the lease is already its own.
    assert!(pool.try_acquire().is_none());
    assert_eq!((pool.stats().in_use, pool.stats().waiting), (1, 1));
    let first = timeout(SOON, waiting.remove(0)).await.unwrap().unwrap();
    assert!(pool.try_acquire().is_none());
    drop(first);
    timeout(SOON, waiting.remove(0)).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_that_has_left_is_skipped() {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    let held = pool.acquire().await.unwrap();
    let mut waiting = queue(&pool, 3, |i, lease| (i, lease.unwrap())).await;
    let gone = waiting.remove(1);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(pool.stats().waiting, 2);
    drop(held);
    for expected in [0, 2] {
        let (i, _lease) = timeout(SOON, waiting.remove(0)).await.unwrap().unwrap();
        assert_eq!(i, expected);
    }
}

#[tokio::test]
async fn one_too_many_is_refused_at_once_and_told_why() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(PoolConfig {
        max_waiting: 2,
        ..up_to(1)
    });
    let held = pool.acquire().await.unwrap();
    let waiting = queue(&pool, 2, |_, lease| drop(lease.unwrap())).await;
    let error = refusal(pool.acquire().await);
    assert_eq!(error.failure, AcquireFailure::QueueFull);
    assert_eq!(
        (error.size, error.max, error.waiting, error.holders.len()),
        (1, 1, 2, 1)
    );
    let text = error.to_string();
    assert!(text.contains("1 of 1 connections open, 2 callers waiting"), "{text}");
    assert!(text.contains("hand_off.rs:"), "{text}");
    assert_eq!((pool.stats().refused, pool.stats().waiting), (1, 2));
    let told = |event: &Event| {
        matches!(
            event,
            Event::AcquireFailed {
                failure: AcquireFailure::QueueFull,
                ..
            }
        )
    };
    assert_eq!(log.count(told), 1);
    drop(held);
    for waiter in waiting {
        timeout(SOON, waiter).await.unwrap().unwrap();
    }
    drop(pool.acquire().await.unwrap());
}

#[tokio::test]
async fn observing_counts_what_it_would_have_refused() {
    let rig = rig().await;
    for (admission, counted) in [(Mode::Observe, 3), (Mode::Off, 0)] {
        let (pool, log) = rig.watched_pool(PoolConfig {
            max_waiting: 2,
            admission,
            ..up_to(1)
        });
        let held = pool.acquire().await.unwrap();
        let waiting = queue(&pool, 5, |_, lease| drop(lease.unwrap())).await;
        assert_eq!(pool.stats().refused, counted, "{admission}");
        assert_eq!(
            log.count(|event| matches!(event, Event::WouldRefuse { .. })) as u64,
            counted,
            "{admission}"
        );
        drop(held);
        for waiter in waiting {
            timeout(SOON, waiter).await.unwrap().unwrap();
        }
    }
}
