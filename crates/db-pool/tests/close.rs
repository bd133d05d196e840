//! The orderly end.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, refusal, rig, run, until, up_to, warm};
use db_core::{AcquireFailure, CloseReason, Event};
use db_pool::PoolConfig;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn waits_for_those_inside_and_refuses_all_others() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(up_to(2));
    let mut inside = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let waiting = tokio::spawn(pool.acquire());
    until("it waits", async || pool.stats().waiting == 1).await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    // The one who waited is told at once, and so is everybody who comes now.
    assert_eq!(
        refusal(timeout(SOON, waiting).await.unwrap().unwrap()).failure,
        AcquireFailure::Closed
    );
    assert!(pool.is_closed());
    assert_eq!(refusal(pool.acquire().await).failure, AcquireFailure::Closed);
    assert!(pool.try_acquire().is_none());
    // Those inside can work on.
    for lease in &mut inside {
        run(lease, "SELECT 1").await;
    }
    assert!(!closing.is_finished());
    let [a, b] = inside;
    drop(a);
    sleep(Duration::from_millis(50)).await;
    assert!(!closing.is_finished(), "one is still out");
    drop(b);
    let report = timeout(SOON, closing).await.unwrap().unwrap();
    assert!(report.still_out.is_empty(), "{report:?}");
    assert_eq!(pool.stats().size, 0);
    assert_eq!(
        log.count(|event| matches!(event, Event::PoolClosed { still_out: 0 })),
        1
    );
    let mut admin = rig.admin().await;
    until("the server has nobody left", async || admin.sessions().await == 0).await;
}

#[tokio::test]
async fn reports_who_is_still_out_and_ends_their_sessions() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let (pool, log) = rig.watched_pool(PoolConfig {
        drain_timeout: Duration::from_millis(200),
        ..up_to(2)
    });
    warm(&pool, 2).await;
    let mut stuck = pool.acquire().await.unwrap();
    let line = line!() - 1;
    run(&mut stuck, "BEGIN").await;
    let since = Instant::now();
    let report = timeout(SOON, pool.close()).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(200), "given a while");
    assert!(
        report.took >= Duration::from_millis(200) && report.took < SOON,
        "{report:?}"
    );
    assert_eq!(report.still_out.len(), 1, "{report:?}");
    let holder = &report.still_out[0];
    assert_eq!(
        (holder.site.unwrap().line(), holder.backend_pid),
        (line, Some(stuck.backend_pid()))
    );
    assert_eq!(
        log.count(|event| matches!(event, Event::PoolClosed { still_out: 1 })),
        1
    );
    until("its session is ended", async || admin.sessions().await == 0).await;
    sqlx::raw_sql("SELECT 1").execute(&mut *stuck).await.unwrap_err();
    drop(stuck);
    until("the accounts are empty", async || pool.stats().size == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_busy() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(4));
    let busy: Vec<_> = (0..16)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                loop {
                    let mut lease = match pool.acquire().await {
                        Ok(lease) => lease,
                        Err(error) => break refusal::<()>(Err(error)).failure,
                    };
                    // Some go back dirty, some are abandoned.
                    match i % 3 {
                        0 => drop(
                            timeout(
                                Duration::from_millis(2),
                                sqlx::raw_sql("SELECT pg_sleep(1)").execute(&mut *lease),
                            )
                            .await,
                        ),
                        1 => run(&mut lease, "BEGIN; SELECT 1").await,
                        _ => {}
                    }
                }
            })
        })
        .collect();
    until("it is busy", async || pool.stats().acquires > 100).await;
    let report = timeout(SOON, pool.close()).await.unwrap();
    assert!(report.still_out.is_empty(), "{report:?}");
    for task in busy {
        assert_eq!(timeout(SOON, task).await.unwrap().unwrap(), AcquireFailure::Closed);
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.size, stats.in_use, stats.idle, stats.quarantined),
        (0, 0, 0, 0),
        "{stats:?}"
    );
    until("the server has nobody left", async || admin.sessions().await == 0).await;
}

#[tokio::test]
async fn twice_and_unused_and_dropped_half_way() {
    let rig = rig().await;
    // Never used: there is nothing to wait for.
    let unused = rig.pool(up_to(2));
    assert!(timeout(SOON, unused.close()).await.unwrap().still_out.is_empty());
    assert_eq!(refusal(unused.acquire().await).failure, AcquireFailure::Closed);

    let pool = rig.pool(up_to(2));
    let lease = pool.acquire().await.unwrap();
    // Abandoned closing leaves it closed.
    assert!(timeout(Duration::from_millis(50), pool.close()).await.is_err());
    assert_eq!(refusal(pool.acquire().await).failure, AcquireFailure::Closed);
    let (first, second) = (pool.clone(), pool.clone());
    let both = tokio::spawn(async move { tokio::join!(first.close(), second.close()) });
    sleep(Duration::from_millis(20)).await;
    drop(lease);
    let (first, second) = timeout(SOON, both).await.unwrap().unwrap();
    assert!(first.still_out.is_empty() && second.still_out.is_empty());
}

#[tokio::test]
async fn while_the_server_does_not_answer() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    let config = PoolConfig {
        drain_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(500),
        ..up_to(2)
    };
    let pool = db_pool::Pool::builder(options, config).build().unwrap();
    warm(&pool, 2).await;
    let _stuck = pool.acquire().await.unwrap();
    proxy.half_open();
    proxy.hang_new();
    let report = timeout(SOON, pool.close()).await.unwrap();
    assert_eq!(report.still_out.len(), 1);
}

/// Connecting is under way when the pool closes: the connection is not kept.
#[tokio::test]
async fn while_it_connects() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let (proxy, options) = rig.proxy().await;
    proxy.hang_new();
    let pool = db_pool::Pool::builder(options, up_to(2)).build().unwrap();
    let waiting = tokio::spawn(pool.acquire());
    until("it connects", async || pool.stats().dialing == 1).await;
    let report = timeout(SOON, pool.close()).await.unwrap();
    assert!(report.still_out.is_empty());
    assert_eq!(refusal(waiting.await.unwrap()).failure, AcquireFailure::Closed);
    proxy.heal();
    until("nobody came", async || admin.sessions().await == 0).await;
    assert_eq!(pool.stats().closed_for(CloseReason::Closed), pool.stats().connects);
}
