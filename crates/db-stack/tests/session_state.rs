//! Statements that leave something in the session leave it to nobody.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, quiet, rig};
use db_stack::Db;
use sqlx::AssertSqlSafe;
use tokio::time::timeout;

/// What a caller runs through `&Db`, and a question whose answer would show it to the next one.
const STAINS: &[(&str, &str)] = &[
    ("SET work_mem = '1234kB'", "SHOW work_mem"),
    ("SET search_path TO pg_catalog", "SHOW search_path"),
    ("set SESSION work_mem to '1234kB'", "SHOW work_mem"),
    ("SELECT set_config('work_mem', '1234kB', false)", "SHOW work_mem"),
    (
        "WITH x AS MATERIALIZED (SELECT set_config('work_mem', '1234kB', false)) SELECT * FROM x",
        "SHOW work_mem",
    ),
    (
        "DO $$ BEGIN PERFORM set_config('work_mem', '1234kB', false); END $$",
        "SHOW work_mem",
    ),
    ("SET ROLE pg_monitor", "SELECT current_user::text"),
    (
        "CREATE TEMP TABLE stain (n int)",
        "SELECT coalesce(to_regclass('pg_temp.stain')::text, 'none')",
    ),
    (
        "SELECT 1 AS n INTO TEMP stain",
        "SELECT coalesce(to_regclass('pg_temp.stain')::text, 'none')",
    ),
    ("LISTEN stain", "SELECT count(*)::text FROM pg_listening_channels()"),
    (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    (
        "SELECT pg_try_advisory_lock(4711)",
        "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
    (
        "DECLARE stain CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*)::text FROM pg_cursors",
    ),
    (
        "BEGIN",
        "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    ),
    ("BEGIN; SET LOCAL work_mem = '1234kB'", "SHOW work_mem"),
    ("START TRANSACTION READ ONLY", "SHOW transaction_read_only"),
    (
        "SET default_transaction_read_only = on",
        "SHOW default_transaction_read_only",
    ),
];

async fn answer(db: &Db, question: &'static str) -> String {
    let answer = sqlx::query_scalar(question).fetch_one(db);
    timeout(SOON, answer).await.unwrap().unwrap()
}

#[tokio::test]
async fn run_through_the_handle() {
    let rig = rig().await;
    let db = rig.db(1);
    for &(stain, question) in STAINS {
        let before = answer(&db, question).await;
        sqlx::raw_sql(stain).execute(&db).await.unwrap();
        assert_eq!((stain, answer(&db, question).await), (stain, before.clone()));
        if !stain.contains("; ") {
            sqlx::query(stain).fetch_all(&db).await.unwrap();
            assert_eq!((stain, answer(&db, question).await), (stain, before));
        }
    }
    assert_eq!(quiet(&db).await.connects, 1, "reset, not thrown away");
}

#[tokio::test]
async fn run_inside_a_transaction() {
    let rig = rig().await;
    let db = rig.db(1);
    for &(stain, question) in STAINS
        .iter()
        .filter(|(stain, _)| !stain.contains("BEGIN") && !stain.starts_with("START"))
    {
        let before = answer(&db, question).await;
        for committed in [true, false] {
            let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
            sqlx::raw_sql(stain).execute(&mut *tx).await.unwrap();
            if committed {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            assert_eq!((stain, answer(&db, question).await), (stain, before.clone()));
        }
    }
    assert_eq!(quiet(&db).await.connects, 1);
}

/// A failed statement may have done half of it.
#[tokio::test]
async fn that_fail_half_way() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for stain in [
        "SET work_mem = '1234kB'; COMMIT; SELECT 1/0",
        "BEGIN; INSERT INTO t VALUES (1); SELECT 1/0; COMMIT",
        "BEGIN; INSERT INTO t VALUES (1); COMMIT; BEGIN; SELECT 1/0",
    ] {
        let before = answer(&db, "SHOW work_mem").await;
        sqlx::raw_sql(stain).execute(&db).await.unwrap_err();
        sqlx::query("INSERT INTO t VALUES (2)").execute(&db).await.unwrap();
        assert_eq!(answer(&db, "SHOW work_mem").await, before);
    }
    let mut admin = rig.admin().await;
    assert_eq!(
        admin.rows().await,
        [1, 2, 2, 2],
        "every insert of a later caller is committed"
    );
    assert_eq!(admin.in_transaction().await, 0);
}

/// The start-up settings are what everybody goes back to.
#[tokio::test]
async fn the_sessions_own_settings_survive() {
    let rig = rig().await;
    let db = rig.db(1);
    for name in [
        "statement_timeout",
        "application_name",
        "client_connection_check_interval",
    ] {
        let question = || AssertSqlSafe(format!("SELECT current_setting('{name}')"));
        let before: String = sqlx::query_scalar(question()).fetch_one(&db).await.unwrap();
        assert_ne!(before, "0", "{name} is set");
        sqlx::raw_sql(AssertSqlSafe(format!("SET {name} = 99")))
            .execute(&db)
            .await
            .unwrap();
        let after: String = timeout(SOON, sqlx::query_scalar(question()).fetch_one(&db))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(after, before, "{name}");
    }
}

/// A plain statement is not reset for: it costs no trip.
#[tokio::test]
async fn a_plain_statement_costs_no_reset() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for sql in [
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET n = 2",
        "SELECT count(*) FROM t",
        "DELETE FROM t",
    ] {
        sqlx::query(sql).execute(&db).await.unwrap();
        let stats = db.stats();
        assert_eq!((stats.idle, stats.quarantined, stats.cleaned), (1, 0, 0), "{sql}");
    }
    sqlx::query("SELECT 1/0").execute(&db).await.unwrap_err();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let stats = db.stats();
    assert_eq!((stats.idle, stats.quarantined, stats.cleaned), (1, 0, 0), "{stats:?}");
}
