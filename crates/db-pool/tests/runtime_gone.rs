//! Leases and pools may outlive their runtime: dropping them then neither panics nor aborts, and closes the sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, rig, run, until, up_to};
use db_core::{Lease, LeaseState};
use db_pool::{Pool, PoolLease};
use std::{panic, thread, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap(),
    ]
}

fn on<F: Future>(future: F) -> F::Output {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Leases in every condition.
async fn leases(pool: &Pool) -> Vec<PoolLease> {
    let untouched = pool.acquire().await.unwrap();
    let mut settled = pool.acquire().await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(settled.start()).await.unwrap();
    settled.settle(LeaseState::Clean);
    let mut in_flight = pool.acquire().await.unwrap();
    let sleeping = sqlx::raw_sql("SELECT pg_sleep(60)").execute(in_flight.start());
    assert!(timeout(Duration::from_millis(30), sleeping).await.is_err());
    let mut raw = pool.acquire().await.unwrap();
    run(&mut raw, "BEGIN").await;
    let mut broken = pool.acquire().await.unwrap();
    broken.close_on_drop();
    vec![untouched, settled, in_flight, raw, broken]
}

fn all_gone(rig: &Rig) {
    on(async {
        let mut admin = rig.admin().await;
        until("the server has nobody left", async || admin.sessions().await == 0).await;
    });
}

#[test]
fn leases_then_the_pool() {
    for runtime in runtimes() {
        let rig = on(rig());
        let pool = rig.pool(up_to(8));
        let leases = runtime.block_on(leases(&pool));
        drop(runtime);
        drop(leases);
        drop(pool);
        all_gone(&rig);
    }
}

#[test]
fn the_pool_then_leases() {
    for runtime in runtimes() {
        let rig = on(rig());
        let pool = rig.pool(up_to(8));
        let leases = runtime.block_on(leases(&pool));
        drop(runtime);
        drop(pool);
        drop(leases);
        all_gone(&rig);
    }
}

#[test]
fn on_a_plain_thread_while_the_runtime_lives() {
    for runtime in runtimes() {
        let rig = on(rig());
        let pool = rig.pool(up_to(8));
        let leases = runtime.block_on(leases(&pool));
        let handle = pool.clone();
        thread::spawn(move || drop((leases, handle))).join().unwrap();
        // What was dirty is made clean by the runtime of the pool, when that runs.
        runtime.block_on(until("all are back", async || {
            let stats = pool.stats();
            stats.in_use == 0 && stats.quarantined == 0 && stats.idle == stats.size
        }));
        thread::spawn(move || drop(pool)).join().unwrap();
        drop(runtime);
        all_gone(&rig);
    }
}

/// A panic while a panic unwinds aborts the process: this test would not end at all.
#[test]
fn while_unwinding() {
    for runtime in runtimes() {
        let rig = on(rig());
        let pool = rig.pool(up_to(8));
        let leases = runtime.block_on(leases(&pool));
        drop(runtime);
        let unwound = panic::catch_unwind(panic::AssertUnwindSafe(move || {
            let _held = (leases, pool);
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        all_gone(&rig);
    }
}

/// The runtime takes its tasks down with it, and these hold leases.
#[test]
fn tasks_that_hold_leases_when_the_runtime_goes() {
    for runtime in runtimes() {
        let rig = on(rig());
        let pool = rig.pool(up_to(8));
        for _ in 0..4 {
            let pool = pool.clone();
            runtime.spawn(async move {
                let mut lease = pool.acquire().await.unwrap();
                run(&mut lease, "SELECT pg_sleep(60)").await;
            });
        }
        runtime.block_on(until("all are at it", async || pool.stats().in_use == 4));
        drop(runtime);
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.quarantined), (0, 0), "{stats:?}");
        drop(pool);
        all_gone(&rig);
    }
}

#[test]
fn a_pool_that_was_never_used_needs_no_runtime() {
    let rig = on(rig());
    let pool = rig.pool(up_to(2));
    assert!(pool.try_acquire().is_none());
    assert_eq!(pool.stats().size, 0);
    drop(pool);
}

/// A pool in a static outlives the runtimes of tests and of commands that each make their own.
#[test]
fn the_next_runtime_takes_over() {
    let rig = on(rig());
    let pool = rig.pool(up_to(2));
    for runtime in runtimes().into_iter().chain(runtimes()) {
        let held = runtime.block_on(async {
            for _ in 0..3 {
                let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
                run(&mut lease, "SELECT 1").await;
            }
            pool.acquire().await.unwrap()
        });
        drop(runtime);
        drop(held);
    }
    let closer = Builder::new_current_thread().enable_all().build().unwrap();
    closer.block_on(pool.close());
    assert!(closer.block_on(pool.acquire()).is_err());
    drop(closer);
    drop(pool);
    all_gone(&rig);
}
