//! What only an sqlx pool can make comes out of the same budget, and goes back into it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, refusal, rig, until, up_to, warm};
use db_core::{AcquireFailure, Call};
use db_pool::PoolConfig;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn transactions_of_sqlx_count_and_come_back() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(PoolConfig {
        acquire_timeout: Duration::from_millis(500),
        ..up_to(2)
    });
    for committed in [true, false] {
        let mut first = pool.begin_inner(&Call::here()).await.unwrap();
        let second = pool.begin_inner(&Call::here()).await.unwrap();
        assert_eq!(pool.stats().lent, 2);
        assert_eq!(refusal(pool.acquire().await).failure, AcquireFailure::TimedOut);
        sqlx::raw_sql("INSERT INTO t VALUES (1)")
            .execute(&mut *first)
            .await
            .unwrap();
        if committed {
            first.commit().await.unwrap();
        } else {
            drop(first);
        }
        until("one is back", async || pool.stats().lent == 1).await;
        drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
        drop(second);
        until("both are back", async || pool.stats().lent == 0).await;
    }
    assert_eq!(admin.number("SELECT count(*) FROM t").await, 1);
    warm(&pool, 2).await;
    // The inner pool keeps nothing for itself: two leases and the control connection.
    until("no more than the budget", async || admin.sessions().await == 3).await;
}

#[tokio::test]
async fn a_full_pool_gives_up_an_idle_connection_for_it() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(2));
    warm(&pool, 2).await;
    let tx = pool.begin_inner(&Call::here()).await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.size, stats.lent), (1, 1), "{stats:?}");
    until("no more than the budget", async || admin.sessions().await == 3).await;
    drop(tx);
    warm_again(&pool).await;
}

async fn warm_again(pool: &db_pool::Pool) {
    until("it is back", async || pool.stats().lent == 0).await;
    warm(pool, 2).await;
}

#[tokio::test]
async fn a_place_that_is_not_used_is_given_back() {
    let rig = rig().await;
    let pool = rig.pool(up_to(1));
    let lent = pool.lend(&Call::here()).await.unwrap();
    assert_eq!(pool.stats().lent, 1);
    let waiting = tokio::spawn(pool.acquire());
    until("it waits", async || pool.stats().waiting == 1).await;
    drop(lent);
    timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(pool.stats().lent, 0);
}

/// sqlx does not say that a connection was detached or broke: the pool finds out.
#[tokio::test]
async fn connections_that_break_or_are_detached_are_noticed() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(2));
    let mut broken = pool.begin_inner(&Call::here()).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *broken)
        .await
        .unwrap();
    admin.terminate(pid).await;
    drop(sqlx::raw_sql("SELECT 1").execute(&mut *broken).await);
    drop(broken);
    let lent = pool.lend(&Call::here()).await.unwrap();
    let detached = pool.inner().acquire().await.unwrap();
    lent.taken_over();
    drop(detached.detach());
    // Within the acquire timeout: a caller must not fail for places that nobody has.
    let leases = [
        timeout(SOON, pool.acquire()).await.unwrap().unwrap(),
        timeout(SOON, pool.acquire()).await.unwrap().unwrap(),
    ];
    assert_eq!(pool.stats().lent, 0);
    drop(leases);
}

/// A `begin` that is abandoned anywhere must neither keep its place nor give it back twice.
#[tokio::test]
async fn an_abandoned_begin_gives_its_place_back_once() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let pool = rig.pool(up_to(2));
    let other = pool.begin_inner(&Call::here()).await.unwrap();
    for polls in 0..12 {
        let call = Call::here();
        let mut begin = Box::pin(pool.begin_inner(&call));
        for _ in 0..polls {
            if futures_util::poll!(&mut begin).is_ready() {
                break;
            }
            // As long as an answer takes.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(begin);
        until("it is back", async || {
            pool.stats().lent <= 1 && pool.inner().size() <= 1
        })
        .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(
            pool.stats().lent,
            1,
            "after {polls} polls the other one still has its place"
        );
    }
    let lease = timeout(SOON, pool.acquire()).await.unwrap().unwrap();
    until("no more than the budget", async || admin.sessions().await == 3).await;
    drop((other, lease));
}
