//! Checks of a report that fail for a reason that takes some doing: worn-out transaction ids, a standby that falls behind,
//! calls that fail or crawl, a server without room, statistics that are not there.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, until};
use db_stack::{Db, Detail, HealthReport, Mode, Status};
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{os::unix::fs::MetadataExt, os::unix::process::CommandExt, process::Command, time::Duration};
use tokio::time::Instant;

/// What a busy machine adds to the bound.
const BUSY: Duration = Duration::from_secs(2);
/// Transaction ids in one file of `pg_xact`: the server can go on from a multiple of it without the files in between.
const IDS_IN_A_FILE: u64 = 1_048_576;

async fn report(db: &Db) -> HealthReport {
    let (since, bound) = (Instant::now(), db.config().health.report_timeout);
    let report = db.health().await;
    let took = since.elapsed();
    assert!(took < bound + BUSY, "{took:?}: {report}");
    report
}

#[track_caller]
fn says(report: &HealthReport, name: &str, status: Status, message: &str) {
    let check = report.check(name).unwrap();
    assert!(
        check.status == status && check.message.contains(message),
        "{name} is to be {status} with {message:?}: {report}"
    );
}

async fn admin(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.unwrap()
}

async fn run(pg: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pg).await.unwrap();
}

/// Lets the stopped server go on from this transaction id, as if all before had been used.
fn wear_out(server: &Postgres, bin: &str, next: u64) {
    let data = server.dir().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    let mut tool = Command::new(format!("{bin}/pg_resetwal"));
    tool.arg("-x")
        .arg(next.to_string())
        .arg("-D")
        .arg(&data)
        .current_dir("/");
    if owner.uid() != 0 {
        // The tool refuses to work as root.
        tool.uid(owner.uid()).gid(owner.gid());
    }
    let done = tool.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_ids_that_wear_out() {
    let server = Postgres::builder()
        .setting("autovacuum", "off")
        // Else the server would mend it at once.
        .setting("autovacuum_freeze_max_age", 2_000_000_000)
        .start()
        .await
        .unwrap();
    let bin: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        .fetch_one(&mut admin(&server).await)
        .await
        .unwrap();
    let db = builder(server.options(), 2)
        .configure(|config| config.health.xid_age = 1_000_000)
        .build()
        .unwrap();
    says(&report(&db).await, "transaction_ids", Status::Healthy, "old");
    server.stop().await.unwrap();
    wear_out(&server, &bin, 4 * IDS_IN_A_FILE);
    server.start_again().await.unwrap();
    let found = report(&db).await;
    says(
        &found,
        "transaction_ids",
        Status::Degraded,
        "autovacuum does not keep up",
    );
    assert_eq!(found.http_status(), 200);
    server.stop().await.unwrap();
    wear_out(&server, &bin, 1_600 * IDS_IN_A_FILE);
    server.start_again().await.unwrap();
    let found = report(&db).await;
    says(&found, "transaction_ids", Status::Unhealthy, "vacuum");
    assert_eq!(found.http_status(), 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_falls_behind_and_one_that_receives_nothing() {
    let server = Postgres::start().await.unwrap();
    let standby = server.replica().await.unwrap();
    let mut pg = admin(&server).await;
    run(&mut pg, "CREATE TABLE news (n int)").await;
    standby.wait_caught_up(&server, SOON).await.unwrap();
    let lag = |config: &mut db_stack::DbConfig| config.health.lag = Duration::from_millis(300);
    let primary = builder(server.options(), 2).configure(lag).build().unwrap();
    let found = report(&primary).await;
    says(&found, "replication", Status::Healthy, "1 standbys follow");
    // It receives and does not replay.
    standby.pause_replay().await.unwrap();
    until("the primary sees it fall behind", async || {
        run(&mut pg, "INSERT INTO news VALUES (1)").await;
        let found = report(&primary).await;
        found.check("replication").unwrap().status == Status::Degraded
    })
    .await;
    let found = report(&primary).await;
    says(&found, "replication", Status::Degraded, "behind");
    assert!(
        matches!(
            found.check("replication").unwrap().detail,
            Detail::Primary { standbys: 1, lag: Some(lag), bytes: Some(bytes) } if lag >= 0.3 && bytes > 0
        ),
        "{found}"
    );
    standby.resume_replay().await.unwrap();
    standby.wait_caught_up(&server, SOON).await.unwrap();
    until("it has caught up", async || {
        run(&mut pg, "INSERT INTO news VALUES (1)").await;
        report(&primary).await.check("replication").unwrap().status == Status::Healthy
    })
    .await;

    let behind = builder(standby.options(), 2).build().unwrap();
    says(&report(&behind).await, "replication", Status::Healthy, "behind");
    server.kill().await.unwrap();
    until("the standby is cut off", async || {
        let found = report(&behind).await;
        found.check("replication").unwrap().message.contains("does not receive")
    })
    .await;
    says(
        &report(&behind).await,
        "replication",
        Status::Degraded,
        "does not receive",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_and_calls_that_crawl() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 4)
        .configure(|config| {
            // It counts, and lets everybody through.
            config.breaker.mode = Mode::Observe;
            // Where it would open it starts to count anew.
            config.breaker.failure_rate = 1.0;
            config.breaker.window_time = Duration::from_secs(60);
            config.health.failure_rate = 0.05;
            config.health.slow_rate = 0.5;
            config.timeout.normal.alert = Duration::from_millis(20);
        })
        .build()
        .unwrap();
    let select = async || sqlx::query("SELECT 1").execute(&db).await.map(drop);
    for _ in 0..40 {
        select().await.unwrap();
    }
    let found = report(&db).await;
    says(&found, "calls", Status::Healthy, "0 of 40 recent calls failed");

    let hurried = db.timeout(Duration::from_millis(50));
    for _ in 0..5 {
        sqlx::query("SELECT pg_sleep(5)").execute(&hurried).await.unwrap_err();
    }
    let found = report(&db).await;
    says(&found, "calls", Status::Degraded, "recent calls failed");
    assert_eq!(found.http_status(), 200);
    for _ in 0..40 {
        sqlx::query("SELECT pg_sleep(5)").execute(&hurried).await.unwrap_err();
    }
    let found = report(&db).await;
    says(&found, "calls", Status::Unhealthy, "recent calls failed");
    assert_eq!(found.http_status(), 503);

    // What was slow before the report before is old news.
    let db = builder(database.options(), 4)
        .configure(|config| *config = (*db.config()).clone())
        .build()
        .unwrap();
    for _ in 0..25 {
        sqlx::query("SELECT pg_sleep(0.03)").execute(&db).await.unwrap();
    }
    says(
        &report(&db).await,
        "calls",
        Status::Degraded,
        "25 of 25 recent calls were slow",
    );
    for _ in 0..25 {
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
    }
    says(&report(&db).await, "calls", Status::Healthy, "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_got_no_connection() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 1)
        .configure(|config| {
            config.pool.acquire_timeout = Duration::from_millis(50);
            config.pool.validation_timeout = Duration::from_millis(50);
        })
        .build()
        .unwrap();
    let lease = db.acquire().await.unwrap();
    assert!(db.acquire().await.is_err());
    drop(lease);
    says(
        &report(&db).await,
        "pool",
        Status::Degraded,
        "1 callers got no connection lately",
    );
    says(&report(&db).await, "pool", Status::Healthy, "in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room() {
    let server = Postgres::builder().max_connections(12).start().await.unwrap();
    let db = builder(server.options(), 1).build().unwrap();
    says(&report(&db).await, "connections", Status::Healthy, "of 9");
    let mut others = Vec::new();
    until("others take all that is left", async || {
        // The superuser may have those that are kept for him as well.
        others.push(admin(&server).await);
        others.len() >= 9
    })
    .await;
    until("it is seen", async || {
        let found = report(&db).await;
        found
            .check("connections")
            .unwrap()
            .message
            .contains("no more are taken")
    })
    .await;
    let found = report(&db).await;
    says(&found, "connections", Status::Unhealthy, "no more are taken");
    says(&found, "connectivity", Status::Healthy, "a primary answers");
}

#[tokio::test]
async fn statistics_that_were_not_loaded() {
    let server = Postgres::start().await.unwrap();
    let mut pg = admin(&server).await;
    let installed = sqlx::raw_sql("CREATE EXTENSION pg_stat_statements")
        .execute(&mut pg)
        .await;
    if installed.is_err() {
        return db_testkit::skip("pg_stat_statements", "not installed");
    }
    let db = builder(server.options(), 1).build().unwrap();
    let found = report(&db).await;
    says(&found, "statements", Status::Unknown, "shared_preload_libraries");
    assert_eq!(found.http_status(), 200);
}
