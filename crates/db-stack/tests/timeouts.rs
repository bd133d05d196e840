//! Limits: the statement ends on the server, the slot comes back, and a transaction says what happened to it.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use db_stack::{Db, Error, Mode, QueryClass, TransactionAborted};
use db_testkit::{Cut, FaultProxy, TestDatabase, database};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_millis(200);

async fn one(server: &TestDatabase) -> Db {
    Db::builder()
        .url(&db_testkit::pooled_url(&server.url()))
        .max_connections(1)
        .connect()
        .await
        .unwrap()
}

async fn sleepers(db: &Db) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                 AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    sqlx::query_scalar(count).fetch_one(db).await.unwrap()
}

fn timed_out(error: sqlx::Error) -> bool {
    matches!(error.into(), Error::Timeout(_))
}

#[tokio::test]
async fn a_timeout_ends_the_statement_on_the_server_and_the_only_slot_serves_again() {
    let server = database().await;
    let db = one(&server).await;
    let since = Instant::now();
    let out = sqlx::query("SELECT pg_sleep(30)").execute(&db.timeout(LIMIT)).await;
    assert!(timed_out(out.unwrap_err()));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let since = Instant::now();
    assert_eq!(sleepers(&db).await, 0);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(db.stats().cancelled, 1);
    assert_eq!(db.stats().connects, 1, "reused, not replaced");
}

#[tokio::test]
async fn a_dropped_future_does_the_same() {
    let server = database().await;
    let db = one(&server).await;
    let dropped = tokio::time::timeout(LIMIT, sqlx::query("SELECT pg_sleep(4)").execute(&db)).await;
    assert!(dropped.is_err());
    assert_eq!(sleepers(&db).await, 0);
    assert_eq!(db.stats().connects, 1);
}

#[tokio::test]
async fn the_nearest_of_class_timeout_and_deadline_wins_and_covers_the_wait_for_a_lease() {
    let server = database().await;
    let db = one(&server).await;
    let instant = db.class(QueryClass::Instant);
    assert!(timed_out(
        sqlx::query("SELECT pg_sleep(30)").execute(&instant).await.unwrap_err()
    ));
    // Another task's: one's own would be refused as nested.
    let holder = tokio::spawn(db.acquire()).await.unwrap().unwrap();
    let since = Instant::now();
    let late = db.deadline(Instant::now() + LIMIT);
    let error = Error::from(sqlx::query("SELECT 1").execute(&late).await.unwrap_err());
    assert!(
        matches!(&error, Error::Acquire(acquire) if !acquire.holders.is_empty()),
        "{error}"
    );
    assert!(since.elapsed() < Duration::from_secs(3));
    let passed = sqlx::query("SELECT 1").execute(&late).await.unwrap_err();
    assert!(timed_out(passed), "a deadline that has passed refuses at once");
    drop(holder);
}

#[tokio::test]
async fn inside_a_transaction_a_timeout_aborts_it_and_commit_says_so() {
    let server = database().await;
    let db = one(&server).await;
    sqlx::query("CREATE TABLE notes (n int)").execute(&db).await.unwrap();
    let mut tx = db.timeout(LIMIT).begin().await.unwrap();
    sqlx::query("INSERT INTO notes VALUES (1)")
        .execute(&mut *tx)
        .await
        .unwrap();
    assert!(timed_out(
        sqlx::query("SELECT pg_sleep(30)").execute(&mut *tx).await.unwrap_err()
    ));
    assert!(
        sqlx::query("INSERT INTO notes VALUES (2)")
            .execute(&mut *tx)
            .await
            .is_err()
    );
    let error = tx.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::Aborted(TransactionAborted::StatementCancelled)),
        "{error}"
    );
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(stored, 0);
    assert_eq!(sleepers(&db).await, 0);
}

#[tokio::test]
async fn a_timeout_during_commit_is_an_unknown_outcome() {
    let server = database().await;
    let proxy = FaultProxy::start_for_url(&db_testkit::pooled_url(&server.url()))
        .await
        .unwrap();
    let db = Db::builder()
        .url(&proxy.through(&server.url()))
        .max_connections(2)
        .connect()
        .await
        .unwrap();
    sqlx::query("CREATE TABLE notes (n int)").execute(&db).await.unwrap();
    let mut tx = db.timeout(Duration::from_millis(500)).begin().await.unwrap();
    sqlx::query("INSERT INTO notes VALUES (1)")
        .execute(&mut *tx)
        .await
        .unwrap();
    // The answer to COMMIT comes long after the limit.
    proxy.delay(db_testkit::Direction::ToClient, Duration::from_secs(2));
    let error = tx.commit().await.unwrap_err();
    proxy.heal();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_an_unknown_outcome_too() {
    let server = database().await;
    let proxy = FaultProxy::start_for_url(&db_testkit::pooled_url(&server.url()))
        .await
        .unwrap();
    let db = Db::builder()
        .url(&proxy.through(&server.url()))
        .max_connections(2)
        .connect()
        .await
        .unwrap();
    sqlx::query("CREATE TABLE notes (n int)").execute(&db).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO notes VALUES (1)")
        .execute(&mut *tx)
        .await
        .unwrap();
    proxy.cut_at(Cut::after_reply("COMMIT"));
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error}");
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(stored, 1, "the server had committed, as an unknown outcome may");
}

#[tokio::test]
async fn rows_that_the_caller_reads_slowly_do_not_count_against_a_class() {
    use futures::TryStreamExt;
    let server = database().await;
    let db = one(&server).await;
    let instant = db.class(QueryClass::Instant);
    let mut rows = sqlx::query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)").fetch(&instant);
    let mut read = 0;
    while rows.try_next().await.unwrap().is_some() {
        read += 1;
        if read == 300 {
            sleep(LIMIT * 2).await;
        }
    }
    assert_eq!(read, 20_000);
}

#[tokio::test]
async fn observe_ends_nothing_and_the_mode_can_be_changed_at_run_time() {
    let server = database().await;
    let db = one(&server).await;
    let mut events = db.events();
    let mut config = (*db.config()).clone();
    config.timeout.mode = Mode::Observe;
    db.reload(config.clone()).unwrap();
    sqlx::query("SELECT pg_sleep(0.3)")
        .execute(&db.class(QueryClass::Instant))
        .await
        .unwrap();
    let told = std::iter::from_fn(|| events.try_next()).any(|event| {
        matches!(
            event,
            db_stack::Event::WouldTimeOut {
                class: QueryClass::Instant,
                ..
            }
        )
    });
    assert!(told);
    config.timeout.mode = Mode::Enforce;
    db.reload(config).unwrap();
    let out = sqlx::query("SELECT pg_sleep(0.5)")
        .execute(&db.class(QueryClass::Instant))
        .await;
    assert!(timed_out(out.unwrap_err()));
}

#[tokio::test]
async fn the_whole_pool_asleep_still_times_out_and_comes_back() {
    let server = database().await;
    let db = Db::builder()
        .url(&db_testkit::pooled_url(&server.url()))
        .max_connections(4)
        .connect()
        .await
        .unwrap();
    let impatient = db.timeout(LIMIT);
    let since = Instant::now();
    let calls = (0..4).map(|_| sqlx::query("SELECT pg_sleep(30)").execute(&impatient));
    assert!(
        futures::future::join_all(calls)
            .await
            .into_iter()
            .all(|out| out.is_err_and(timed_out))
    );
    let leases = futures::future::join_all((0..4).map(|_| db.acquire())).await;
    assert!(leases.iter().all(Result::is_ok));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}
