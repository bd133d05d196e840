//! A server starts, dies, freezes and comes back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::{Duration, Instant};

use db_testkit::{Postgres, ServerError, Shutdown, StartError};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

async fn one(url: &str) -> i32 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let row = sqlx::query("SELECT 1").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn starts_and_answers_over_tcp_and_socket() {
    let start = Instant::now();
    let server = Postgres::start().await.unwrap();
    println!("start: {:?}", start.elapsed());
    assert_eq!(one(&server.url()).await, 1);
    assert_eq!(one(&server.socket_url()).await, 1);
    assert_eq!(
        PgConnection::connect_with(&server.options())
            .await
            .unwrap()
            .close()
            .await
            .ok(),
        Some(())
    );
    assert!(server.major_version() >= 12, "{}", server.version());
    let mut admin = server.admin().await.unwrap();
    for (name, value) in [("fsync", "off"), ("max_connections", "200"), ("wal_level", "replica")] {
        let shown: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut admin)
            .await
            .unwrap();
        assert_eq!(shown, value, "{name}");
    }
}

#[tokio::test]
async fn kill_and_start_again_right_away() {
    let server = Postgres::start().await.unwrap();
    let mut admin = server.admin().await.unwrap();
    sqlx::query("CREATE TABLE kept (n int)")
        .execute(&mut admin)
        .await
        .unwrap();
    for round in 0..5 {
        let mut session = PgConnection::connect(&server.url()).await.unwrap();
        sqlx::query("INSERT INTO kept VALUES ($1)")
            .bind(round)
            .execute(&mut session)
            .await
            .unwrap();
        // A busy backend that outlived its postmaster would keep the next one from starting.
        let url = server.url();
        let busy = tokio::spawn(async move {
            let mut busy = PgConnection::connect(&url).await.unwrap();
            sqlx::query("SELECT count(*) FROM generate_series(1, 1000000000)")
                .execute(&mut busy)
                .await
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = server.pid();
        let start = Instant::now();
        server.kill().await.unwrap();
        let killed = start.elapsed();
        assert_eq!(server.pid(), None);
        assert!(sqlx::query("SELECT 1").execute(&mut session).await.is_err());
        assert!(busy.await.unwrap().is_err());
        let start = Instant::now();
        server.start_again().await.unwrap();
        println!("kill: {killed:?}, start again: {:?}", start.elapsed());
        assert_ne!(server.pid(), before);
        assert_eq!(one(&server.url()).await, 1);
    }
    let mut admin = server.admin().await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert_eq!(kept, 5, "a killed server loses nothing that was committed");
}

#[tokio::test]
async fn freeze_hangs_everything_and_thaw_resumes() {
    let server = Postgres::start().await.unwrap();
    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    let url = server.url();
    server.freeze().await.unwrap();
    {
        let query = sqlx::query("SELECT 1").execute(&mut session);
        tokio::pin!(query);
        assert!(
            timeout(Duration::from_millis(200), &mut query).await.is_err(),
            "a frozen backend answered"
        );
        let connect = timeout(Duration::from_millis(200), PgConnection::connect(&url)).await;
        assert!(connect.is_err(), "a frozen postmaster answered");
        server.thaw().await.unwrap();
        timeout(Duration::from_secs(5), query).await.unwrap().unwrap();
    }
    assert_eq!(one(&url).await, 1);
    // A frozen server must not keep a drop waiting.
    server.freeze().await.unwrap();
    let start = Instant::now();
    drop(server);
    println!("drop of a frozen server: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn one_backend_frozen_or_killed() {
    let server = Postgres::start().await.unwrap();
    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut session)
        .await
        .unwrap();
    let pid = u32::try_from(pid).unwrap();
    server.freeze_backend(pid).await.unwrap();
    assert_eq!(one(&server.url()).await, 1, "the others go on");
    let query = async { sqlx::query("SELECT 1").execute(&mut session).await };
    tokio::pin!(query);
    assert!(timeout(Duration::from_millis(200), &mut query).await.is_err());
    server.thaw_backend(pid).await.unwrap();
    timeout(Duration::from_secs(5), query).await.unwrap().unwrap();

    assert!(matches!(
        server.kill_backend(1).await,
        Err(ServerError::NotABackend { pid: 1 })
    ));
    server.kill_backend(pid).await.unwrap();
    let start = Instant::now();
    server.wait_ready(Duration::from_secs(10)).await.unwrap();
    println!("ready after a killed backend: {:?}", start.elapsed());
    assert_eq!(one(&server.url()).await, 1);
}

#[tokio::test]
async fn shutdowns_restart_and_settings() {
    let server = Postgres::builder()
        .setting("work_mem", "8MB")
        .max_connections(50)
        .start()
        .await
        .unwrap();
    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    let shown: String = sqlx::query_scalar("SHOW work_mem")
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert_eq!(shown, "8MB");
    server.alter_system("work_mem", "9MB").await.unwrap();
    server.reload().await.unwrap();
    let mut fresh = server.admin().await.unwrap();
    let shown: String = sqlx::query_scalar("SHOW work_mem").fetch_one(&mut fresh).await.unwrap();
    assert_eq!(shown, "9MB");
    fresh.close().await.unwrap();

    // Smart: refuses new sessions, keeps the old one until it leaves.
    server.request_stop(Shutdown::Smart).await.unwrap();
    let refused = loop {
        match PgConnection::connect(&server.url()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "57P03");
    sqlx::query("SELECT 1").execute(&mut session).await.unwrap();
    drop(session);
    server.stop_smart().await.unwrap();
    assert!(matches!(server.stop().await, Err(ServerError::NotRunning)));
    server.start_again().await.unwrap();
    assert!(matches!(server.start_again().await, Err(ServerError::AlreadyRunning)));

    let mut session = PgConnection::connect(&server.url()).await.unwrap();
    server.restart().await.unwrap();
    let error = sqlx::query("SELECT 1").execute(&mut session).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57P01");
    server.stop_immediate().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(one(&server.url()).await, 1);
}

#[tokio::test]
async fn a_setting_that_stops_the_start_is_shown_with_the_log() {
    let error = Postgres::builder()
        .setting("work_mem", "lots")
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Exited { .. }), "{error}");
    assert!(
        error.to_string().contains("invalid value for parameter \"work_mem\""),
        "{error}"
    );
}

#[tokio::test]
async fn socket_only() {
    let server = Postgres::builder().listen_tcp(false).start().await.unwrap();
    assert_eq!(one(&server.url()).await, 1);
    assert!(std::net::TcpStream::connect(server.addr()).is_err());
}
