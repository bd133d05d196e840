//! A database for every test, from a template, and on a server that is shared.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{env, process::Command, time::Instant};

use db_testkit::{Postgres, ServerError, TestDatabase};
use sqlx::{Connection, PgConnection};

async fn seed(url: String) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE seeded AS SELECT n FROM generate_series(1, 1000) n")
        .execute(&mut connection)
        .await?;
    // Left open on purpose: a copy must not fail because of it.
    std::mem::forget(connection);
    Ok(())
}

async fn rows(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query_scalar("SELECT count(*) FROM seeded")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    rows
}

#[tokio::test]
async fn copies_of_a_template_are_apart() {
    let server = Postgres::start().await.unwrap();
    let template = server.template(seed).await.unwrap();
    let mut databases = Vec::new();
    let start = Instant::now();
    for _ in 0..10 {
        databases.push(template.database().await.unwrap());
    }
    println!("database from a template: {:?}", start.elapsed() / 10);
    let mut first = PgConnection::connect_with(&databases[0].options()).await.unwrap();
    sqlx::raw_sql("DELETE FROM seeded").execute(&mut first).await.unwrap();
    assert_eq!(rows(&databases[0].url()).await, 0);
    for database in &databases[1..] {
        assert_eq!(rows(&database.url()).await, 1000);
    }
    // With a session still in it.
    let (name, url) = (databases[0].name().to_owned(), databases[0].url());
    databases.remove(0).drop_database().await.unwrap();
    let error = PgConnection::connect(&url).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "3D000", "{name}");

    let start = Instant::now();
    for _ in 0..10 {
        server.database().await.unwrap();
    }
    println!("empty database: {:?}", start.elapsed() / 10);
    let failed = server.template(|_| async { Err("no seed today") }).await.unwrap_err();
    assert!(matches!(failed, ServerError::Seed(_)), "{failed}");
}

/// The environment can only be set for a child: this runs the ignored tests below in one.
async fn run_in_child(server: &Postgres, test: &str) {
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("DB_STACK_PG_URL", server.url());
    let status = tokio::task::spawn_blocking(move || child.status())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success());
}

async fn left(server: &Postgres) -> Vec<String> {
    let mut admin = server.admin().await.unwrap();
    sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'te%\\_%' ORDER BY 1")
        .fetch_all(&mut admin)
        .await
        .unwrap()
}

#[tokio::test]
async fn twenty_at_once_on_a_named_server_leave_nothing() {
    let server = Postgres::start().await.unwrap();
    run_in_child(&server, "child_twenty_at_once").await;
    assert!(left(&server).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test with DB_STACK_PG_URL set"]
async fn child_twenty_at_once() {
    let start = Instant::now();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async {
                let database = db_testkit::database().await;
                assert!(database.server().is_none());
                let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
                let name: String = sqlx::query_scalar("SELECT current_database()")
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
                assert_eq!(name, database.name());
                name
            })
        })
        .collect();
    let mut names = Vec::new();
    for task in tasks {
        names.push(task.await.unwrap());
    }
    println!("20 test databases made and dropped: {:?}", start.elapsed());
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
}

#[tokio::test]
async fn processes_share_a_named_template() {
    let server = Postgres::start().await.unwrap();
    let children = (0..4).map(|_| run_in_child(&server, "child_from_template"));
    let mut running: Vec<_> = children.map(Box::pin).collect();
    let (a, b, c, d) = (
        running.remove(0),
        running.remove(0),
        running.remove(0),
        running.remove(0),
    );
    tokio::join!(a, b, c, d);
    assert_eq!(left(&server).await, ["template_shared"]);
}

#[tokio::test]
#[ignore = "run by another test with DB_STACK_PG_URL set"]
async fn child_from_template() {
    let database = TestDatabase::from_template("shared", seed).await.unwrap();
    assert_eq!(rows(&database.url()).await, 1000);
}

#[test]
fn drop_works_without_a_runtime_and_with_the_server_gone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Postgres::start()).unwrap();
    runtime.block_on(run_in_child(&server, "child_drop_without_a_runtime"));
    assert!(runtime.block_on(left(&server)).is_empty());
}

#[test]
#[ignore = "run by another test with DB_STACK_PG_URL set"]
fn child_drop_without_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(db_testkit::database());
    drop(runtime);
    drop(database);
}

#[tokio::test]
async fn an_own_server_when_none_is_named() {
    if env::var_os("DB_STACK_PG_URL").is_some() {
        return;
    }
    let database = db_testkit::database().await;
    assert!(database.server().is_some());
    PgConnection::connect(&database.url())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
}
