//! A standby lags, stops, follows again and takes over.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::{Duration, Instant};

use db_testkit::{CutStyle, FaultProxy, Postgres};
use sqlx::{Connection, PgConnection};

const LONG: Duration = Duration::from_secs(10);

async fn rows(server: &Postgres) -> i64 {
    let mut admin = server.admin().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM t")
        .fetch_one(&mut admin)
        .await
        .unwrap()
}

async fn insert(server: &Postgres) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&server.url()).await?;
    sqlx::raw_sql("INSERT INTO t VALUES (1)")
        .execute(&mut connection)
        .await
        .map(drop)
}

async fn with_table() -> Postgres {
    let server = Postgres::start().await.unwrap();
    let mut admin = server.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n int)")
        .execute(&mut admin)
        .await
        .unwrap();
    server
}

#[tokio::test]
async fn lags_pauses_and_is_promoted() {
    let primary = with_table().await;
    let start = Instant::now();
    let replica = primary.replica().await.unwrap();
    println!("replica: {:?}", start.elapsed());
    assert!(replica.is_standby().await.unwrap() && !primary.is_standby().await.unwrap());
    insert(&primary).await.unwrap();
    replica.wait_caught_up(&primary, LONG).await.unwrap();
    assert_eq!(rows(&replica).await, 1);
    let error = insert(&replica).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "25006");

    replica.set_apply_delay(Duration::from_millis(700)).await.unwrap();
    let start = Instant::now();
    insert(&primary).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rows(&replica).await, 1);
    replica.wait_caught_up(&primary, LONG).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(650), "{:?}", start.elapsed());
    assert_eq!(rows(&replica).await, 2);
    replica.set_apply_delay(Duration::ZERO).await.unwrap();

    replica.pause_replay().await.unwrap();
    insert(&primary).await.unwrap();
    assert!(
        replica
            .wait_caught_up(&primary, Duration::from_millis(300))
            .await
            .is_err()
    );
    assert_eq!(rows(&replica).await, 2);
    replica.resume_replay().await.unwrap();
    replica.wait_caught_up(&primary, LONG).await.unwrap();
    assert_eq!(rows(&replica).await, 3);

    // The same faults as a primary.
    replica.kill().await.unwrap();
    insert(&primary).await.unwrap();
    replica.start_again().await.unwrap();
    replica.wait_caught_up(&primary, LONG).await.unwrap();
    assert_eq!(rows(&replica).await, 4);

    primary.kill().await.unwrap();
    let start = Instant::now();
    replica.promote().await.unwrap();
    println!("promote: {:?}", start.elapsed());
    insert(&replica).await.unwrap();
    assert_eq!(rows(&replica).await, 5);
    assert!(!replica.is_standby().await.unwrap());
}

#[tokio::test]
async fn replicates_through_a_proxy() {
    let primary = Postgres::builder()
        .password_auth("it's \\ secret")
        .start()
        .await
        .unwrap();
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n int)")
        .execute(&mut admin)
        .await
        .unwrap();
    let proxy = FaultProxy::start(primary.addr()).await.unwrap();
    let replica = primary.replica_through(proxy.addr()).await.unwrap();
    insert(&primary).await.unwrap();
    replica.wait_caught_up(&primary, LONG).await.unwrap();
    proxy.half_open();
    insert(&primary).await.unwrap();
    assert!(
        replica
            .wait_caught_up(&primary, Duration::from_millis(300))
            .await
            .is_err()
    );
    assert_eq!(rows(&replica).await, 1);
    proxy.cut_all(CutStyle::Reset);
    // The standby waits up to 5 s before it tries again.
    replica.wait_caught_up(&primary, Duration::from_secs(20)).await.unwrap();
    assert_eq!(rows(&replica).await, 2);
}
