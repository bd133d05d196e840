//! What a transaction's commit says is what has happened.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, quiet, rig, until};
use db_stack::{Db, Error, SqlState, TransactionAborted, Tx};
use db_testkit::Cut;
use sqlx::{Acquire, PgConnection};
use std::time::Duration;
use tokio::time::timeout;

async fn insert(tx: &mut Tx, n: i32) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO t VALUES ($1)")
        .bind(n)
        .execute(&mut **tx)
        .await
        .map(drop)
}

fn aborted(result: db_stack::Result<()>) -> TransactionAborted {
    match result {
        Err(Error::Aborted(why)) => why,
        other => panic!("not aborted: {other:?}"),
    }
}

/// Fact 5: sqlx says `Ok` here, and nothing is written.
#[tokio::test]
async fn an_aborted_transaction_can_not_be_committed() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    // Swallowed, as an `if let Ok` does.
    sqlx::query("SELECT 1/0").execute(&mut *tx).await.unwrap_err();
    let why = aborted(tx.commit().await);
    assert_eq!(why, TransactionAborted::StatementFailed(SqlState::DivisionByZero));
    assert_eq!(rig.admin().await.rows().await, [0; 0]);

    let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
    insert(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [2]);
    assert_eq!(db.stats().connects, 1);
}

/// However the statement was run.
#[tokio::test]
async fn every_way_to_fail_is_seen() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for way in 0..6 {
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        insert(&mut tx, way).await.unwrap();
        let fails = "SELECT 1/0 AS n";
        match way {
            0 => drop(sqlx::query(fails).fetch_one(&mut *tx).await.unwrap_err()),
            1 => drop(
                sqlx::query_scalar::<_, i32>(fails)
                    .fetch_all(&mut *tx)
                    .await
                    .unwrap_err(),
            ),
            2 => drop(sqlx::raw_sql(fails).execute(&mut *tx).await.unwrap_err()),
            3 => drop(
                sqlx::query("SELECT no_such_column FROM t")
                    .fetch_optional(&mut *tx)
                    .await
                    .unwrap_err(),
            ),
            4 => {
                let mut rows =
                    sqlx::query_scalar::<_, i32>("SELECT 3 / (3 - n) FROM generate_series(1, 5) AS n").fetch(&mut *tx);
                while let Ok(Some(_)) = futures::TryStreamExt::try_next(&mut rows).await {}
            }
            // In a helper that takes a connection, unseen by the stack: the server is asked.
            _ => helper_that_fails(&mut tx).await,
        }
        assert_eq!(
            aborted(tx.commit().await),
            TransactionAborted::StatementFailed(match way {
                3 => SqlState::UndefinedColumn,
                5 => SqlState::InFailedTransaction,
                _ => SqlState::DivisionByZero,
            }),
            "way {way}"
        );
    }
    assert_eq!(rig.admin().await.rows().await, [0; 0]);
}

async fn helper_that_fails(conn: &mut PgConnection) {
    sqlx::raw_sql("SELECT 1/0").execute(conn).await.unwrap_err();
}

async fn helper(conn: &mut PgConnection, n: i32) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO t VALUES ($1)")
        .bind(n)
        .execute(conn)
        .await
        .map(drop)
}

#[tokio::test]
async fn helpers_that_take_a_connection_work() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    helper(&mut tx, 1).await.unwrap();
    insert(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2]);
}

#[tokio::test]
async fn what_does_not_reach_the_server_does_not_abort() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let missing = sqlx::query("SELECT n FROM t WHERE n = 99")
        .fetch_one(&mut *tx)
        .await
        .unwrap_err();
    assert!(matches!(missing, sqlx::Error::RowNotFound));
    let odd = sqlx::query_scalar::<_, String>("SELECT n FROM t")
        .fetch_one(&mut *tx)
        .await
        .unwrap_err();
    assert!(matches!(odd, sqlx::Error::ColumnDecode { .. }), "{odd:?}");
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1]);
}

#[tokio::test]
async fn a_savepoint_of_sqlx_takes_the_error_back() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)")
        .execute(&mut *inner)
        .await
        .unwrap();
    sqlx::query("SELECT 1/0").execute(&mut *inner).await.unwrap_err();
    inner.rollback().await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (3)")
        .execute(&mut *inner)
        .await
        .unwrap();
    inner.commit().await.unwrap();
    // Dropped: rolled back with the next statement.
    let mut inner = tx.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (4)")
        .execute(&mut *inner)
        .await
        .unwrap();
    drop(inner);
    insert(&mut tx, 5).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 3, 5]);
    assert_eq!(quiet(&db).await.connects, 1);
}

/// The failed release leaves the savepoint to sqlx's drop, which rolls back to it: the outer transaction is whole.
#[tokio::test]
async fn an_error_in_a_savepoint_that_is_committed_takes_only_that_back() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)")
        .execute(&mut *inner)
        .await
        .unwrap();
    sqlx::query("SELECT 1/0").execute(&mut *inner).await.unwrap_err();
    inner.commit().await.unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1]);
}

#[tokio::test]
async fn a_savepoint_by_hand_takes_the_error_back() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    sqlx::query("SAVEPOINT a").execute(&mut *tx).await.unwrap();
    sqlx::query("SELECT 1/0").execute(&mut *tx).await.unwrap_err();
    sqlx::query("ROLLBACK TO SAVEPOINT a").execute(&mut *tx).await.unwrap();
    insert(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2]);

    // To one that was set inside the failed part, or not at all: still aborted.
    let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
    sqlx::query("SELECT 1/0").execute(&mut *tx).await.unwrap_err();
    sqlx::query("ROLLBACK TO SAVEPOINT nowhere")
        .execute(&mut *tx)
        .await
        .unwrap_err();
    assert!(matches!(
        aborted(tx.commit().await),
        TransactionAborted::StatementFailed(_)
    ));
}

/// sqlx's depth does not follow, and its `commit` would say `Ok` to a transaction that is long gone.
#[tokio::test]
async fn ended_by_a_statement_inside() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for (end, tracked) in [
        ("COMMIT", true),
        ("ROLLBACK", true),
        ("COMMIT", false),
        ("ROLLBACK", false),
    ] {
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        insert(&mut tx, 1).await.unwrap();
        if tracked {
            sqlx::query(end).execute(&mut *tx).await.unwrap();
        } else {
            let raw: &mut PgConnection = &mut tx;
            sqlx::raw_sql(end).execute(raw).await.unwrap();
        }
        assert_eq!(
            aborted(tx.commit().await),
            TransactionAborted::EndedInside,
            "{end} tracked: {tracked}"
        );
    }
    assert_eq!(rig.admin().await.rows().await, [1, 1]);
    assert_eq!(quiet(&db).await.size, 1);
}

#[tokio::test]
async fn a_deferred_constraint_fails_the_commit() {
    let rig = rig().await;
    rig.admin()
        .await
        .run("CREATE TABLE u (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        .await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    for _ in 0..2 {
        sqlx::query("INSERT INTO u VALUES (1)").execute(&mut *tx).await.unwrap();
    }
    let Err(Error::Server(error)) = tx.commit().await else {
        panic!("nothing was committed")
    };
    assert_eq!(error.state(), SqlState::UniqueViolation);
    assert_eq!(rig.admin().await.number("SELECT count(*) FROM u").await, 0);
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((one, db.stats().connects), (1, 1));
}

#[tokio::test]
async fn a_lost_answer_is_unknown() {
    let rig = rig().await.with_table().await;
    let (proxy, db) = rig.proxied(1).await;
    let mut admin = rig.admin().await;
    for (cut, committed) in [
        (Cut::after("COMMIT"), true),
        (Cut::after_reply("COMMIT"), true),
        (Cut::before("COMMIT"), false),
    ] {
        admin.run("TRUNCATE t").await;
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        insert(&mut tx, 1).await.unwrap();
        proxy.cut_at(cut.clone());
        // Nobody can tell these apart from here, so they must not be told apart.
        let error = timeout(SOON, tx.commit()).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::CommitUnknown { .. }), "{cut:?}: {error:?}");
        assert_eq!(proxy.cuts_waiting(), 0);
        if committed {
            until("it is there", async || admin.rows().await == [1]).await;
        } else {
            until("it is gone", async || admin.in_transaction().await == 0).await;
            assert_eq!(admin.rows().await, [0; 0]);
        }
    }
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn a_session_that_was_ended_before_commit_is_an_error() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    rig.admin().await.terminate_all().await;
    tx.commit().await.unwrap_err();
    assert_eq!(rig.admin().await.rows().await, [0; 0]);
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn dropped_or_rolled_back_nothing_is_written() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for dropped in [true, false] {
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        insert(&mut tx, 1).await.unwrap();
        if dropped {
            drop(tx);
        } else {
            tx.rollback().await.unwrap();
        }
        let rows: i64 = timeout(SOON, sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&db))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rows, 0);
    }
    assert_eq!(quiet(&db).await.connects, 1);
    assert_eq!(rig.admin().await.in_transaction().await, 0);
}

#[tokio::test]
async fn begin_with_and_try_begin() {
    let rig = rig().await.with_table().await;
    let db: Db = rig.db(1);
    assert!(db.try_begin().await.unwrap().is_none(), "nothing is open yet");
    let mut tx = db
        .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY")
        .await
        .unwrap();
    let level: String = sqlx::query_scalar("SHOW transaction_isolation")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(level, "serializable");
    let error = Error::from(
        sqlx::query("INSERT INTO t VALUES (1)")
            .execute(&mut *tx)
            .await
            .unwrap_err(),
    );
    assert_eq!(error.sqlstate(), Some(SqlState::ReadOnlyTransaction));
    assert!(db.try_begin().await.unwrap().is_none(), "it is in use");
    tx.rollback().await.unwrap();
    let tx = db.try_begin().await.unwrap().expect("it is idle");
    tx.commit().await.unwrap();
    // Not a transaction at all.
    db.begin_with("SELECT 1").await.unwrap_err();
    let error = db.begin_with("BEGIN NONSENSE").await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::SyntaxError));
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one, 1);
    tokio::time::sleep(Duration::from_millis(1)).await;
}
