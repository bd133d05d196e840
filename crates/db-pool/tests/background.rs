//! The pool's own tasks: gone with its last handle, and undisturbed by callers that panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, rig, run, text, until, up_to, warm};
use db_pool::PoolConfig;
use std::time::Duration;
use tokio::{runtime::Handle, time::timeout};

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn the_last_handle_takes_everything_along() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let before = tasks();
    let pool = rig.pool(PoolConfig {
        min_connections: 2,
        ..up_to(4)
    });
    warm(&pool, 4).await;
    assert!(tasks() > before, "it has tasks of its own");
    let other = pool.clone();
    drop(pool);
    drop(other.acquire().await.unwrap());
    assert_eq!(admin.sessions().await, 5);
    drop(other);
    until("no task is left", async || tasks() == before).await;
    until("no session is left", async || admin.sessions().await == 0).await;
}

#[tokio::test]
async fn also_when_it_can_not_connect() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.hang_new();
    let before = tasks();
    let pool = db_pool::Pool::builder(options, up_to(4)).build().unwrap();
    assert!(timeout(Duration::from_millis(50), pool.acquire()).await.is_err());
    drop(pool);
    // The proxy has a task for each connection that it left hanging.
    proxy.heal();
    until("no task is left", async || tasks() <= before).await;
}

#[tokio::test]
async fn after_close_as_well() {
    let rig = rig().await;
    let before = tasks();
    let pool = rig.pool(up_to(4));
    warm(&pool, 4).await;
    pool.close().await;
    until("no task is left", async || tasks() == before).await;
    drop(pool);
}

#[tokio::test]
async fn a_lease_outlives_the_last_handle() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let before = tasks();
    let pool = rig.pool(up_to(2));
    let mut lease = pool.acquire().await.unwrap();
    let mut dirty = pool.acquire().await.unwrap();
    drop(pool);
    assert_eq!(text(&mut lease, "SELECT 'still here'").await, "still here");
    run(&mut dirty, "BEGIN").await;
    drop((lease, dirty));
    until("no session is left", async || admin.sessions().await == 0).await;
    until("no task is left", async || tasks() == before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_with_a_lease_gives_it_back_clean() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin.run("CREATE TABLE t (n int)").await;
    let pool = rig.pool(up_to(2));
    for step in 0..4 {
        let pool = pool.clone();
        let task = tokio::spawn(async move {
            let mut lease = pool.acquire().await.unwrap();
            if step > 0 {
                run(&mut lease, "BEGIN").await;
            }
            if step > 1 {
                run(&mut lease, "INSERT INTO t VALUES (1)").await;
            }
            if step > 2 {
                let mut running = Box::pin(sqlx::raw_sql("SELECT pg_sleep(60)").execute(&mut *lease));
                drop(futures_util::poll!(&mut running));
                panic!("on purpose");
            }
            panic!("on purpose");
        });
        assert!(timeout(SOON, task).await.unwrap().unwrap_err().is_panic());
    }
    until("both are back", async || pool.stats().idle == pool.stats().size).await;
    warm(&pool, 2).await;
    let mut lease = pool.acquire().await.unwrap();
    assert_eq!(text(&mut lease, "SELECT count(*)::text FROM t").await, "0");
    assert_eq!(admin.running("pg_sleep").await, 0);
    assert_eq!(pool.stats().connects, 2, "cleaned, not thrown away");
}
