//! Reports, readiness and liveness of a real server: well, frozen, exhausted, a standby; and each check failing for its
//! own reason.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{builder, until};
use db_stack::{Db, Detail, Event, Finding, HealthReport, Status, check_fn, config::Tables};
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// What a busy machine adds to the bound.
const BUSY: Duration = Duration::from_secs(2);

async fn report(db: &Db) -> HealthReport {
    let (since, bound) = (Instant::now(), db.config().health.report_timeout);
    let report = db.health().await;
    let took = since.elapsed();
    assert!(took < bound + BUSY, "{took:?}: {report}");
    report
}

fn status(report: &HealthReport, name: &str) -> Status {
    report
        .check(name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
        .status
}

async fn admin(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.unwrap()
}

async fn run(pg: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pg).await.unwrap();
}

#[tokio::test]
async fn all_is_well() {
    let database = db_testkit::database().await;
    let mut pg = PgConnection::connect(&database.url()).await.unwrap();
    run(
        &mut pg,
        "CREATE SCHEMA s; CREATE TABLE s.\"T\" (n int); CREATE TABLE plain (n int)",
    )
    .await;
    let db = builder(database.options(), 2)
        .configure(|config| config.health.critical_tables = Tables::from_iter(["s.T", "plain"]))
        .build()
        .unwrap();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    let report = report(&db).await;
    for name in [
        "connectivity",
        "transaction",
        "tables",
        "replication",
        "transaction_ids",
        "pool",
        "calls",
        "breaker",
        "leases",
    ] {
        assert_eq!(status(&report, name), Status::Healthy, "{name}: {report}");
    }
    assert_eq!(report.http_status(), 200);
    assert!(matches!(
        report.check("tables").unwrap().detail,
        Detail::Tables { readable: 2, .. }
    ));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["checks"][0]["name"], "connectivity");
    assert_eq!(json["checks"][0]["detail"]["standby"], false);
    assert!(json["took_ms"].as_f64().unwrap() > 0.0, "{json}");
    assert!(db.readiness().is_ready() && db.liveness().is_alive());
    // Nothing is left behind, and nothing is counted against the pool.
    assert_eq!(db.stats().in_use, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_pool_is_degraded_and_ready() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 1)
        .configure(|config| config.health.lease = Duration::from_millis(50))
        .build()
        .unwrap();
    let lease = db.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { sqlx::query("SELECT 1").execute(&db).await.map(drop) }
    });
    until("somebody waits", async || db.stats().waiting == 1).await;
    sleep(Duration::from_millis(60)).await;
    let report = report(&db).await;
    assert_eq!(status(&report, "connectivity"), Status::Healthy, "{report}");
    assert_eq!(status(&report, "pool"), Status::Degraded, "{report}");
    assert_eq!(status(&report, "leases"), Status::Degraded, "{report}");
    assert!(db.readiness().is_ready());
    assert_eq!(report.http_status(), 200);
    drop(lease);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_found_out_within_the_bound() {
    let server = Postgres::start().await.unwrap();
    let db = builder(server.options(), 2)
        .configure(|config| {
            config.health.report_timeout = Duration::from_millis(500);
            config.health.interval = Duration::from_millis(100);
            config.health.timeout = Duration::from_millis(100);
            config.health.unready_after = Duration::from_millis(300);
        })
        .build()
        .unwrap();
    let mut events = db.events();
    assert_eq!(status(&report(&db).await, "connectivity"), Status::Healthy);
    until("it is ready", async || db.readiness().is_ready()).await;
    server.freeze().await.unwrap();
    for _ in 0..2 {
        let report = report(&db).await;
        assert_eq!(status(&report, "connectivity"), Status::Unhealthy, "{report}");
        assert_eq!(status(&report, "tables"), Status::Unknown, "{report}");
        assert_eq!(report.http_status(), 503);
    }
    until("it is not ready", async || !db.readiness().is_ready()).await;
    assert!(db.liveness().is_alive(), "that is not the process's fault");
    server.thaw().await.unwrap();
    until("it is ready again", async || db.readiness().is_ready()).await;
    until("all is well again", async || {
        status(&report(&db).await, "connectivity") == Status::Healthy
    })
    .await;
    let (mut alert, mut recovered) = (false, false);
    while let Some(event) = events.try_next() {
        alert |= matches!(event, Event::HealthAlert { .. });
        recovered |= matches!(event, Event::HealthRecovered { .. });
    }
    assert!(alert && recovered, "an alert, and the news of its end");
    db.close().await;
    assert!(!db.readiness().is_ready());
    assert!(db.liveness().is_alive(), "closed in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_standby_only_reading_is_tried() {
    let server = Postgres::start().await.unwrap();
    let standby = server.replica().await.unwrap();
    let db = builder(standby.options(), 2)
        .configure(|config| config.health.lag = Duration::from_millis(300))
        .build()
        .unwrap();
    let found = report(&db).await;
    assert_eq!(status(&found, "transaction"), Status::Healthy, "{found}");
    assert!(matches!(
        found.check("transaction").unwrap().detail,
        Detail::Transaction { read_only: true }
    ));
    assert!(
        matches!(
            found.check("replication").unwrap().detail,
            Detail::Standby { streaming: true, .. }
        ),
        "{found}"
    );
    let mut pg = admin(&server).await;
    run(&mut pg, "CREATE TABLE news (n int)").await;
    standby.wait_caught_up(&server, BUSY).await.unwrap();
    // Behind: what it receives it does not replay.
    standby.pause_replay().await.unwrap();
    run(&mut pg, "INSERT INTO news VALUES (1)").await;
    until("it is found to be behind", async || {
        status(&report(&db).await, "replication") == Status::Degraded
    })
    .await;
    // On the primary its standby is seen.
    let primary = builder(server.options(), 2).build().unwrap();
    let found = report(&primary).await;
    assert!(
        matches!(
            found.check("replication").unwrap().detail,
            Detail::Primary { standbys: 1, .. }
        ),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_check_fails_for_its_own_reason() {
    let server = Postgres::builder().max_connections(20).start().await.unwrap();
    let mut pg = admin(&server).await;
    run(
        &mut pg,
        "CREATE TABLE locked (n int); CREATE TABLE secret (n int); \
         CREATE ROLE plain LOGIN; REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC; GRANT SELECT ON locked TO plain",
    )
    .await;
    let options = server.options().username("plain");
    let db = builder(options, 2)
        .configure(|config| {
            config.health.critical_tables = Tables::from_iter(["locked", "secret", "nowhere"]);
            config.health.transaction = Duration::from_millis(100);
            config.health.connections = 0.1;
            config.health.xid_age = 1_000_000;
        })
        .build()
        .unwrap();
    let mut holder = admin(&server).await;
    run(&mut holder, "BEGIN; LOCK TABLE locked").await;
    let found = report(&db).await;
    assert_eq!(status(&found, "connectivity"), Status::Healthy, "{found}");
    assert_eq!(
        status(&found, "transaction"),
        Status::Unknown,
        "no right to temporary tables: {found}"
    );
    assert_eq!(status(&found, "statements"), Status::Unknown, "not installed: {found}");
    let Detail::Tables {
        readable: 0,
        unreadable,
    } = &found.check("tables").unwrap().detail
    else {
        panic!("{found}");
    };
    assert!(unreadable["locked"].contains("no answer"), "{unreadable:?}");
    assert!(unreadable["secret"].contains("no right"), "{unreadable:?}");
    assert!(unreadable["nowhere"].contains("does not exist"), "{unreadable:?}");
    assert_eq!(found.http_status(), 503);
    run(&mut holder, "ROLLBACK").await;

    // As a role that sees everything.
    let all = builder(server.options(), 2)
        .configure(|config| *config = (*db.config()).clone())
        .build()
        .unwrap();
    run(&mut holder, "BEGIN; SELECT 1").await;
    until("the long transaction is seen", async || {
        status(&report(&all).await, "longest_transaction") == Status::Degraded
    })
    .await;
    run(&mut holder, "ROLLBACK").await;
    let found = report(&all).await;
    assert_eq!(status(&found, "connections"), Status::Degraded, "{found}");
    run(
        &mut pg,
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
    )
    .await;
    let read_only = builder(server.options(), 2).build().unwrap();
    let found = report(&read_only).await;
    assert_eq!(status(&found, "transaction"), Status::Unhealthy, "{found}");
    read_only.breaker().force_open();
    let found = report(&read_only).await;
    assert_eq!(status(&found, "breaker"), Status::Unhealthy, "{found}");
}

#[tokio::test]
async fn no_right_to_statistics_is_no_illness() {
    let server = Postgres::builder().preload("pg_stat_statements").start().await.unwrap();
    let mut pg = admin(&server).await;
    run(
        &mut pg,
        "CREATE EXTENSION pg_stat_statements; CREATE ROLE plain LOGIN; \
         REVOKE ALL ON pg_stat_statements FROM PUBLIC",
    )
    .await;
    let db = builder(server.options().username("plain"), 2).build().unwrap();
    let found = report(&db).await;
    let check = found.check("statements").unwrap();
    assert_eq!(check.status, Status::Unknown, "{found}");
    assert!(check.message.contains("no right"), "{found}");
    assert_eq!(found.http_status(), 200, "{found}");
    let owner = builder(server.options(), 2).build().unwrap();
    assert_eq!(status(&report(&owner).await, "statements"), Status::Healthy);
}

#[tokio::test]
async fn checks_of_ones_own() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 2)
        .configure(|config| {
            config.health.report_timeout = Duration::from_secs(2);
            // The monitor's own reports would be counted, too.
            config.health.report_every = Duration::ZERO;
        })
        .build()
        .unwrap();
    let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = runs.clone();
    db.add_health_check(check_fn("disk", move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Finding::degraded("81 % full") }
    }));
    db.add_health_check(check_fn("slow", || async { std::future::pending().await }));
    db.add_health_check(check_fn("broken", || async { panic!("of a check") }));
    db.add_health_check(check_fn("statements", || async { Finding::healthy("replaced") }));
    let report = report(&db).await;
    assert_eq!(status(&report, "disk"), Status::Degraded);
    assert_eq!(status(&report, "slow"), Status::Unknown, "{report}");
    assert_eq!(status(&report, "broken"), Status::Unknown, "{report}");
    assert_eq!(report.check("statements").unwrap().message, "replaced");
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(report.status, Status::Degraded);
}
