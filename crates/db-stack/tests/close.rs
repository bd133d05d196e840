//! The end of the whole stack: afterwards the server knows nothing of it any more.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until};
use db_stack::{BreakerState, Error, Status};
use std::time::Duration;
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_outlives_it() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.builder(2).configure(|config| {
        config.health.interval = Duration::from_millis(100);
        config.health.timeout = Duration::from_millis(100);
    });
    let db = db.build().unwrap();
    sqlx::query("SELECT n FROM t").execute(&db).await.unwrap();
    let cached = db.cached(Duration::from_secs(10));
    let rows = cached.fetch_all(sqlx::query_scalar::<_, i32>("SELECT n FROM t"));
    assert!(rows.await.unwrap().is_empty());
    let report = db.health().await;
    assert_eq!(
        report.check("connectivity").unwrap().status,
        Status::Healthy,
        "{report}"
    );
    until(
        "beside the lease and the control connection one for health and one that listens",
        async || admin.sessions().await >= 4,
    )
    .await;
    timeout(SOON, db.close()).await.unwrap();
    until("all are gone", async || admin.sessions().await == 0).await;

    // Whoever asks now opens nothing.
    let report = db.health().await;
    assert_eq!(
        report.check("connectivity").unwrap().status,
        Status::Unhealthy,
        "{report}"
    );
    assert!(matches!(db.reconnect().await, Err(Error::Acquire(_))));
    assert!(db.acquire().await.is_err() && db.listener().await.is_err());
    sleep(Duration::from_millis(300)).await;
    assert_eq!(admin.sessions().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_on_its_way_leaves_nothing_behind() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    for _ in 0..20 {
        let db = rig.db(1);
        let reporting = tokio::spawn({
            let db = db.clone();
            async move { db.health().await }
        });
        sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
        timeout(SOON, db.close()).await.unwrap();
        reporting.await.unwrap();
        until("all are gone", async || admin.sessions().await == 0).await;
    }
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_probes_after_it() {
    let rig = rig().await;
    let db = rig.builder(1).configure(|config| {
        config.breaker.open_wait = Duration::from_millis(50);
        config.breaker.open_wait_cap = Duration::from_millis(50);
    });
    let db = db.build().unwrap();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    for _ in 0..20 {
        db.breaker()
            .note(&Err::<(), _>(Error::from(sqlx::Error::WorkerCrashed)));
    }
    assert_eq!(db.breaker().state(), BreakerState::Open);
    db.close().await;
    let probes = db.breaker().stats().probes;
    sleep(Duration::from_millis(300)).await;
    // One that had begun may have been counted meanwhile.
    assert!(db.breaker().stats().probes <= probes + 1);
    assert!(sqlx::query("SELECT 1").execute(&db).await.is_err());
    let mut admin = rig.admin().await;
    until("all are gone", async || admin.sessions().await == 0).await;
}
