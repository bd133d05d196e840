//! A pool made from an sqlx pool dials as that one does, hooks included.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, rig, run, text, up_to};
use db_pool::Pool;
use sqlx::{Executor, PgPool, postgres::PgPoolOptions};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

/// A pool as a multi-tenant service or a test harness makes it.
fn hooked(rig: &Rig, dialled: Arc<AtomicU32>) -> PgPool {
    PgPoolOptions::new()
        .max_connections(3)
        .after_connect(move |conn, _| {
            dialled.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { conn.execute("SET search_path = tenant_7").await.map(drop) })
        })
        .connect_lazy_with(rig.options())
}

#[tokio::test]
async fn its_hooks_run_on_every_connection() {
    let rig = rig().await;
    let dialled = Arc::new(AtomicU32::new(0));
    let sqlx_pool = hooked(&rig, dialled.clone());
    let pool = Pool::from_pool(&sqlx_pool, up_to(3)).build().unwrap();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
    }
    for lease in &mut leases {
        assert_eq!(text(lease, "SHOW search_path").await, "tenant_7");
        assert_eq!(
            text(lease, "SHOW statement_timeout").await,
            "130s",
            "and the session's own settings"
        );
    }
    assert!(dialled.load(Ordering::Relaxed) >= 3);
    assert_eq!(sqlx_pool.size(), 0, "the sqlx pool itself is left alone");
}

/// What the hook has set is part of the session's set-up: a reset must go back to it, not behind it.
#[tokio::test]
async fn what_the_hook_has_set_survives_a_reset() {
    let rig = rig().await;
    let pool = Pool::from_pool(&hooked(&rig, Arc::default()), up_to(1))
        .build()
        .unwrap();
    for stain in [
        "SELECT 1",
        "SET search_path = elsewhere",
        "BEGIN",
        "SELECT pg_sleep(60)",
    ] {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        assert_eq!(text(&mut lease, "SHOW search_path").await, "tenant_7", "before {stain}");
        drop(timeout(Duration::from_millis(50), run(&mut lease, stain)).await);
    }
}

#[tokio::test]
async fn its_limits_are_taken_over() {
    let rig = rig().await;
    let limits = Pool::limits_of(
        &PgPoolOptions::new()
            .max_connections(7)
            .min_connections(2)
            .acquire_timeout(Duration::from_secs(3))
            .idle_timeout(Duration::from_secs(11))
            .max_lifetime(None)
            .connect_lazy_with(rig.options()),
    );
    assert_eq!((limits.max_connections, limits.min_connections), (7, 2));
    assert_eq!(
        (limits.acquire_timeout, limits.idle_timeout),
        (Duration::from_secs(3), Some(Duration::from_secs(11)))
    );
    assert_eq!(limits.max_lifetime, None);
}

#[tokio::test]
async fn the_real_reason_comes_through_a_pool_too() {
    let rig = rig().await;
    let nowhere = PgPoolOptions::new().connect_lazy_with(rig.options().database("no_such_database"));
    let pool = Pool::from_pool(&nowhere, up_to(1)).build().unwrap();
    let error = common::refusal(timeout(SOON, pool.acquire()).await.unwrap());
    assert_eq!(error.failure, db_core::AcquireFailure::Refused, "{error}");
}

#[tokio::test]
async fn a_hook_that_fails_is_the_reason() {
    let rig = rig().await;
    let failing = PgPoolOptions::new()
        .after_connect(|conn, _| Box::pin(async move { conn.execute("SET no_such_setting = 1").await.map(drop) }))
        .connect_lazy_with(rig.options());
    let config = db_pool::PoolConfig {
        acquire_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        ..up_to(1)
    };
    let pool = Pool::from_pool(&failing, config).build().unwrap();
    let error = common::refusal(timeout(SOON, pool.acquire()).await.unwrap());
    assert!(error.cause.is_some(), "{error}");
}
