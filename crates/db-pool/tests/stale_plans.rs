//! A change of schema makes the plan of a prepared statement stale: one lease meets it, the others forget theirs.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, until};
use db_core::{Lease, LeaseState};
use db_pool::{Pool, PoolConfig, PoolLease};
use std::time::Duration;
use tokio::time::timeout;

const QUERY: &str = "SELECT n FROM t";

async fn query(lease: &mut PoolLease) -> db_core::Result<()> {
    let out = sqlx::query(QUERY).fetch_all(lease.start()).await;
    match out {
        Ok(_) => {
            lease.settle(LeaseState::Clean);
            Ok(())
        }
        Err(error) => {
            let error = db_core::Error::from(error);
            lease.settle(LeaseState::after(&error));
            Err(error)
        }
    }
}

async fn warm(pool: &Pool, leases: usize) {
    let mut held = Vec::new();
    for _ in 0..leases {
        let mut lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
        query(&mut lease).await.unwrap();
        held.push(lease);
    }
}

#[tokio::test]
async fn one_lease_meets_it_and_all_others_forget_their_statements() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        max_connections: 4,
        min_connections: 0,
        ..PoolConfig::default()
    });
    for round in 1..=3 {
        warm(&pool, 4).await;
        admin
            .run(if round % 2 == 1 {
                "ALTER TABLE t ALTER n TYPE bigint"
            } else {
                "ALTER TABLE t ALTER n TYPE int"
            })
            .await;
        let mut lease = pool.acquire().await.unwrap();
        let error = query(&mut lease).await.unwrap_err();
        assert_eq!(LeaseState::after(&error), LeaseState::StalePlans, "{error:?}");
        drop(lease);
        assert_eq!(pool.plan_epoch(), round);
        // Every other one, and the one that met it.
        until("it is back", async || pool.stats().idle == 4).await;
        warm(&pool, 4).await;
        assert_eq!(pool.plan_epoch(), round, "met once");
    }
    assert_eq!(pool.stats().connects, 4, "no connection was lost over it");
}

#[tokio::test]
async fn leases_that_are_out_forget_theirs_on_their_way_back() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        max_connections: 2,
        min_connections: 0,
        ..PoolConfig::default()
    });
    warm(&pool, 2).await;
    let mut first = pool.acquire().await.unwrap();
    let mut second = pool.acquire().await.unwrap();
    admin.run("ALTER TABLE t ALTER n TYPE bigint").await;
    query(&mut first).await.unwrap_err();
    query(&mut second).await.unwrap_err();
    assert_eq!(pool.plan_epoch(), 1, "the second one was behind already");
    drop((first, second));
    warm(&pool, 2).await;
    assert_eq!((pool.plan_epoch(), pool.stats().connects), (1, 2));
}

#[tokio::test]
async fn a_lease_that_nobody_waits_for_is_not_handed_out_with_stale_plans() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        max_connections: 2,
        min_connections: 0,
        ..PoolConfig::default()
    });
    warm(&pool, 2).await;
    admin.run("ALTER TABLE t ALTER n TYPE bigint").await;
    let mut lease = pool.acquire().await.unwrap();
    query(&mut lease).await.unwrap_err();
    // The other one goes to quarantine, and comes back with nothing prepared.
    assert!(pool.try_acquire().is_none());
    until("it is back", async || pool.stats().idle == 1).await;
    let mut other = pool.try_acquire().unwrap();
    query(&mut other).await.unwrap();
}

/// A lost statement is as good as a stale one: whoever ran `DEALLOCATE ALL` took all of that connection's.
#[tokio::test]
async fn a_statement_that_is_gone() {
    let rig = rig().await;
    rig.admin().await.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        max_connections: 1,
        min_connections: 0,
        ..PoolConfig::default()
    });
    warm(&pool, 1).await;
    let mut lease = pool.acquire().await.unwrap();
    sqlx::raw_sql("DEALLOCATE ALL").execute(lease.start()).await.unwrap();
    let error = query(&mut lease).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(db_core::SqlState::InvalidStatementName));
    drop(lease);
    warm(&pool, 1).await;
    assert_eq!(pool.stats().connects, 1);
}

/// A session that is read-only by its own wish is none of the node's business; see the stack's test for a standby.
#[tokio::test]
async fn a_refused_write_costs_the_primary_no_connection() {
    let rig = rig().await;
    rig.admin().await.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        max_connections: 1,
        min_connections: 0,
        ..PoolConfig::default()
    });
    let mut lease = pool.acquire().await.unwrap();
    let refused = sqlx::raw_sql("BEGIN READ ONLY; INSERT INTO t VALUES (1)")
        .execute(lease.start())
        .await
        .unwrap_err();
    lease.settle(LeaseState::after(&refused.into()));
    drop(lease);
    warm(&pool, 1).await;
    assert_eq!(pool.stats().connects, 1);
    tokio::time::sleep(Duration::from_millis(1)).await;
}
