//! Who gets the next lease when there are too few.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, refusal, rig, until, up_to, warm};
use db_core::{AcquireFailure, Call, Event, Priority, Result, ShedReason, Source, Tenant, config::Mode};
use db_pool::{Pool, PoolConfig, PoolLease};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const MS: Duration = Duration::from_millis(1);

fn of(priority: Priority) -> Call {
    Call::default().with_priority(priority)
}

fn for_tenant(id: &str) -> Call {
    let mut call = Call::default();
    call.tenant = Some(Tenant::new(id));
    call
}

/// Waits for a lease in a task of its own, once everybody before it waits.
async fn wait(pool: &Pool, call: Call) -> JoinHandle<Result<PoolLease>> {
    let before = pool.stats().waiting;
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { Source::acquire(&pool, &call).await }
    });
    until("it waits", async || pool.stats().waiting > before).await;
    task
}

async fn served(task: JoinHandle<Result<PoolLease>>) -> Result<PoolLease> {
    timeout(SOON, task).await.unwrap().unwrap()
}

/// Leases of 20 ms, so that the pool knows what to expect.
async fn teach(pool: &Pool, priority: Priority) {
    for _ in 0..20 {
        let lease = Source::acquire(pool, &of(priority)).await.unwrap();
        sleep(20 * MS).await;
        drop(lease);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_urgent_go_first_unless_admission_only_observes() {
    let rig = rig().await;
    let order = [
        Priority::Background,
        Priority::Normal,
        Priority::Critical,
        Priority::High,
    ];
    for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
        let pool = rig.pool(PoolConfig {
            admission: mode,
            ..up_to(1)
        });
        let held = pool.acquire().await.unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for priority in order {
            let task = wait(&pool, of(priority)).await;
            let log = log.clone();
            tasks.push(tokio::spawn(async move {
                let _lease = served(task).await.unwrap();
                log.lock().push(priority);
            }));
        }
        drop(held);
        for task in tasks {
            timeout(SOON, task).await.unwrap().unwrap();
        }
        let expected = if mode == Mode::Enforce {
            Priority::ALL.to_vec()
        } else {
            order.to_vec()
        };
        assert_eq!(*log.lock(), expected, "{mode}");
        pool.close().await;
    }
}

#[tokio::test]
async fn a_floor_is_kept_for_those_who_have_asked_lately_and_only_for_them() {
    let rig = rig().await;
    let mut config = up_to(4);
    config.priorities.reserve_for = 100 * MS;
    let pool = rig.pool(config);
    warm(&pool, 4).await;
    // Nobody urgent was there: background has it all.
    let all: Vec<_> = (0..4).map(|_| of(Priority::Background)).collect();
    let mut leases = Vec::new();
    for call in &all {
        leases.push(Source::acquire(&pool, call).await.unwrap());
    }
    leases.clear();
    drop(Source::acquire(&pool, &of(Priority::Critical)).await.unwrap());
    for call in &all[..3] {
        leases.push(Source::acquire(&pool, call).await.unwrap());
    }
    let stats = pool.stats();
    assert!(stats.unlent_floors >= 1, "{stats:?}");
    let third = wait(&pool, of(Priority::Background)).await;
    let urgent = Source::acquire(&pool, &of(Priority::Critical)).await.unwrap();
    assert_eq!(pool.stats().of(Priority::Critical).in_use, 1);
    drop(urgent);
    // Its floor is held back no longer, and the one who waits gets it without anybody giving anything back.
    drop(served(third).await.unwrap());
    drop(leases);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_would_be_late_is_refused_at_once_and_told_when_to_come_back() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(up_to(1));
    teach(&pool, Priority::Normal).await;
    let held = pool.acquire().await.unwrap();
    let first = wait(&pool, of(Priority::Normal)).await;
    let since = Instant::now();
    let late = of(Priority::Normal).with_deadline(since + 30 * MS);
    let error = refusal(Source::acquire(&pool, &late).await);
    assert_eq!(error.failure, AcquireFailure::Shed(ShedReason::Deadline));
    assert!(error.waited.is_zero());
    let back = error.retry_after.unwrap();
    assert!((10 * MS..500 * MS).contains(&back), "{back:?}");
    assert!(error.to_string().contains("before its deadline"), "{error}");
    assert!(error.to_string().contains("try again in"), "{error}");
    // The urgent are not behind the one who waits.
    let patient = wait(&pool, of(Priority::Normal).with_deadline(since + SOON)).await;
    drop(held);
    drop(served(first).await.unwrap());
    drop(served(patient).await.unwrap());
    assert_eq!(pool.stats().shed_for(ShedReason::Deadline), 1);
    assert_eq!(log.count(|event| matches!(event, Event::AcquireFailed { .. })), 1);
}

#[tokio::test]
async fn observing_counts_what_it_would_have_refused() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(PoolConfig {
        admission: Mode::Observe,
        ..up_to(1)
    });
    teach(&pool, Priority::Normal).await;
    let held = pool.acquire().await.unwrap();
    let deadline = Instant::now() + 10 * MS;
    let error = refusal(Source::acquire(&pool, &of(Priority::Normal).with_deadline(deadline)).await);
    assert_eq!(error.failure, AcquireFailure::TimedOut);
    assert_eq!(pool.stats().shed_for(ShedReason::Deadline), 1);
    assert_eq!(log.count(|event| matches!(event, Event::WouldRefuse { .. })), 1);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_room_for_the_urgent() {
    let rig = rig().await;
    let pool = rig.pool(PoolConfig {
        max_waiting: 2,
        ..up_to(1)
    });
    let held = pool.acquire().await.unwrap();
    let normal = wait(&pool, of(Priority::Normal)).await;
    let background = wait(&pool, of(Priority::Background)).await;
    let error = refusal(Source::acquire(&pool, &of(Priority::Background)).await);
    assert_eq!(error.failure, AcquireFailure::QueueFull);
    let critical = tokio::spawn({
        let pool = pool.clone();
        async move { Source::acquire(&pool, &of(Priority::Critical)).await }
    });
    let error = refusal(served(background).await);
    assert_eq!(error.failure, AcquireFailure::Shed(ShedReason::Displaced));
    drop(held);
    drop(served(critical).await.unwrap());
    drop(served(normal).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_its_share_and_no_more() {
    let rig = rig().await;
    let pool = rig.pool(up_to(4));
    warm(&pool, 4).await;
    let mut loud = Vec::new();
    for _ in 0..2 {
        loud.push(Source::acquire(&pool, &for_tenant("loud")).await.unwrap());
    }
    let third = wait(&pool, for_tenant("loud")).await;
    let waits = pool.stats().waits;
    let quiet = Source::acquire(&pool, &for_tenant("quiet")).await.unwrap();
    assert_eq!(pool.stats().in_use, 3);
    assert_eq!(pool.stats().waits, waits, "the loud one's queue is none for it");
    assert!(!third.is_finished());
    drop(quiet);
    assert!(!third.is_finished(), "what another gives back is not for it");
    loud.pop();
    drop(served(third).await.unwrap());
    drop(loud);
    assert_eq!(pool.stats().in_use, 0);
}

#[tokio::test]
async fn a_tenants_idle_connection_is_its_own_while_one_of_another_is_being_opened() {
    let (rig, other) = (rig().await, rig().await);
    let (proxy, options) = rig.proxy().await;
    let pool = Pool::builder(options, up_to(4)).build().unwrap();
    let at = |id: &str, database: &str| {
        let mut call = Call::default();
        call.tenant = Some(Tenant::new(id).in_database(database));
        call
    };
    let (ours, theirs) = (at("ours", rig.database.name()), at("theirs", other.database.name()));
    drop(Source::acquire(&pool, &ours).await.unwrap());
    proxy.hang_new();
    let opening = wait(&pool, theirs).await;
    let waits = pool.stats().waits;
    drop(timeout(SOON, Source::acquire(&pool, &ours)).await.unwrap().unwrap());
    assert_eq!(pool.stats().waits, waits, "not behind those whom it can't serve");
    proxy.heal();
    // Where each test has a server of its own, there is no such database on this one.
    drop(served(opening).await);
}

#[tokio::test]
async fn warming_up_opens_side_by_side_and_tells_how_far_it_is() {
    let rig = rig().await;
    let pool = rig.pool(up_to(6));
    let mut seen = Vec::new();
    let open = pool.warm_up(100, |open, of| seen.push((open, of))).await.unwrap();
    assert_eq!(open, 6);
    assert_eq!(seen.last(), Some(&(6, 6)));
    assert_eq!(pool.stats().connects, 6);
    assert_eq!(pool.stats().in_use, 0);
    pool.close().await;
    let error = refusal(pool.warm_up(100, |_, _| {}).await);
    assert_eq!(error.failure, AcquireFailure::Closed);
}
