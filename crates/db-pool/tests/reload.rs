//! Settings that change while the pool is in use.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, text, until, up_to, warm};
use db_core::{CloseReason, Event};
use db_pool::{PoolConfig, SessionConfig};
use tokio::time::timeout;

#[tokio::test]
async fn a_larger_maximum_serves_those_who_wait() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(up_to(1));
    let _held = pool.acquire().await.unwrap();
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(pool.acquire())).collect();
    until("they wait", async || pool.stats().waiting == 2).await;
    pool.reload(up_to(3)).unwrap();
    let mut leases = Vec::new();
    for waiter in waiting {
        leases.push(timeout(SOON, waiter).await.unwrap().unwrap().unwrap());
    }
    assert_eq!((pool.stats().size, pool.stats().max), (3, 3));
    assert_eq!(log.count(|event| matches!(event, Event::Reloaded)), 1);
}

#[tokio::test]
async fn a_smaller_maximum_applies_as_leases_come_back() {
    let rig = rig().await;
    let pool = rig.pool(up_to(4));
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(pool.acquire().await.unwrap());
    }
    pool.reload(up_to(2)).unwrap();
    assert_eq!(pool.stats().size, 4, "nobody is interrupted");
    drop(leases);
    let stats = pool.stats();
    assert_eq!(
        (stats.size, stats.idle, stats.closed_for(CloseReason::Shrunk)),
        (2, 2, 2),
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_smaller_maximum_ends_idle_connections_soon() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(4));
    warm(&pool, 4).await;
    pool.reload(up_to(1)).unwrap();
    until("shrunk", async || pool.stats().size == 1).await;
    assert_eq!(pool.stats().closed_for(CloseReason::Shrunk), 3);
    until("the server has let them go", async || admin.sessions().await == 2).await;
}

#[tokio::test]
async fn a_larger_minimum_is_opened() {
    let rig = rig().await;
    let pool = rig.pool(up_to(4));
    warm(&pool, 1).await;
    pool.reload(PoolConfig {
        min_connections: 3,
        ..up_to(4)
    })
    .unwrap();
    until("opened", async || pool.stats().idle == 3).await;
}

#[tokio::test]
async fn what_can_not_be_used_changes_nothing() {
    let rig = rig().await;
    let pool = rig.pool(up_to(4));
    let error = pool.reload(up_to(0)).unwrap_err();
    assert_eq!(error.keys()[0].key, "pool.max_connections");
    assert_eq!(pool.config().max_connections, 4);
    assert_eq!(pool.stats().max, 4);
}

#[tokio::test]
async fn another_endpoint_ends_the_connections_to_the_old_one() {
    let (old, new) = (rig().await, rig().await);
    let pool = old.pool(up_to(3));
    warm(&pool, 3).await;
    let mut held = pool.acquire().await.unwrap();
    let session = SessionConfig {
        application_name: "moved".to_owned(),
        ..SessionConfig::default()
    };
    pool.set_endpoint(new.options(), session);

    // The one in use is left alone until it comes back.
    assert_eq!(
        text(&mut held, "SELECT current_database()::text").await,
        old.database.name()
    );
    for _ in 0..2 {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        let here = text(
            &mut lease,
            "SELECT current_database() || ' ' || current_setting('application_name')",
        )
        .await;
        assert_eq!(here, format!("{} moved", new.database.name()));
    }
    drop(held);
    let mut admin = old.admin().await;
    until("nobody is at the old one", async || {
        pool.stats().closed_for(CloseReason::Epoch) == 3
    })
    .await;
    // The control connection moves when it is next needed.
    until("the old server has let them go", async || admin.sessions().await <= 1).await;
}

/// The control connection follows: a statement on the new server is cancelled there.
#[tokio::test]
async fn cancelling_works_at_the_new_endpoint() {
    use db_testkit::Postgres;
    use sqlx::postgres::PgConnectOptions;
    use std::{str::FromStr, time::Duration};
    let old = rig().await;
    let server = Postgres::start().await.unwrap();
    let pool = old.pool(up_to(1));
    warm(&pool, 1).await;
    pool.set_endpoint(
        PgConnectOptions::from_str(&server.url()).unwrap(),
        SessionConfig::default(),
    );
    let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    let running = sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut *lease);
    assert!(timeout(Duration::from_millis(100), running).await.is_err());
    drop(lease);
    drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
    let stats = pool.stats();
    assert_eq!((stats.cancelled, stats.connects), (1, 2), "{stats:?}");
}
