//! Savepoints: undone alone, nested, and dropped anywhere.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, poll_and_drop, quiet, rig};
use db_stack::{Db, Error, SqlState, TransactionAborted, Tx, TxConn};
use sqlx::{Acquire, PgConnection};
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn insert(tx: &mut TxConn, n: i32) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO t VALUES ($1)")
        .bind(n)
        .execute(tx)
        .await
        .map(drop)
}

async fn fail(tx: &mut TxConn) -> sqlx::Result<()> {
    sqlx::query("SELECT 1/0").execute(tx).await.map(drop)
}

async fn begin(db: &Db) -> Tx {
    timeout(SOON, db.begin()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_closure_that_fails_is_undone_and_the_rest_goes_on() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    insert(&mut tx, 1).await.unwrap();
    let kept = tx.savepoint(async |sp: &mut TxConn| {
        insert(sp, 2).await?;
        Ok::<_, sqlx::Error>(7)
    });
    assert_eq!(kept.await.unwrap(), 7);
    let failed = tx.savepoint(async |sp: &mut TxConn| {
        insert(sp, 3).await?;
        fail(sp).await
    });
    failed.await.unwrap_err();
    // No error of the database, and undone all the same.
    let refused = tx.savepoint(async |sp: &mut TxConn| {
        insert(sp, 4).await?;
        Err::<(), _>(sqlx::Error::RowNotFound)
    });
    refused.await.unwrap_err();
    // Swallowed: undone, and said.
    let swallowed = tx.savepoint(async |sp: &mut TxConn| {
        insert(sp, 5).await?;
        let _ = fail(sp).await;
        Ok::<_, Error>(())
    });
    let error = swallowed.await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Aborted(TransactionAborted::StatementFailed(SqlState::DivisionByZero))
        ),
        "{error:?}"
    );
    insert(&mut tx, 6).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2, 6]);
    let stats = quiet(&db).await;
    assert_eq!((stats.connects, stats.cleaned), (1, 0), "the lease was clean at once");
}

#[tokio::test]
async fn guards_nest_to_any_depth() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    let mut a = tx.begin_savepoint().await.unwrap();
    insert(&mut a, 1).await.unwrap();
    {
        let mut b = a.begin_savepoint().await.unwrap();
        insert(&mut b, 2).await.unwrap();
        let mut c = b.begin_savepoint().await.unwrap();
        insert(&mut c, 3).await.unwrap();
        c.release().await.unwrap();
        let mut d = b.begin_savepoint().await.unwrap();
        insert(&mut d, 4).await.unwrap();
        // Dropped, with the one around it released: only this one is undone.
        drop(d);
        insert(&mut b, 5).await.unwrap();
        b.release().await.unwrap();
    }
    // What was released inside goes with the one around it.
    let mut e = a.begin_savepoint().await.unwrap();
    let mut f = e.begin_savepoint().await.unwrap();
    insert(&mut f, 6).await.unwrap();
    f.release().await.unwrap();
    e.rollback().await.unwrap();
    a.release().await.unwrap();
    for n in 10..60 {
        let mut sp = tx.begin_savepoint().await.unwrap();
        insert(&mut sp, n).await.unwrap();
        if n % 2 == 0 {
            sp.release().await.unwrap();
        }
    }
    // Ours and sqlx's, in one another.
    let mut foreign = tx.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (100)")
        .execute(&mut *foreign)
        .await
        .unwrap();
    foreign.commit().await.unwrap();
    tx.commit().await.unwrap();
    let even = (10..60).filter(|n| n % 2 == 0);
    let expected: Vec<i32> = [1, 2, 3, 5].into_iter().chain(even).chain([100]).collect();
    assert_eq!(rig.admin().await.rows().await, expected);
    assert_eq!(quiet(&db).await.connects, 1);
}

/// The commit that follows must not keep what was left behind.
#[tokio::test]
async fn left_behind_and_then_committed() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    insert(&mut tx, 1).await.unwrap();
    let mut sp = tx.begin_savepoint().await.unwrap();
    insert(&mut sp, 2).await.unwrap();
    drop(sp);
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1]);
}

#[tokio::test]
async fn dropped_with_a_statement_in_flight() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    insert(&mut tx, 1).await.unwrap();
    let slow = tx.savepoint(async |sp: &mut TxConn| {
        insert(sp, 2).await?;
        sqlx::query("SELECT pg_sleep(60)").execute(&mut *sp).await.map(drop)
    });
    assert!(timeout(Duration::from_millis(100), slow).await.is_err());
    // Cancelled on the server, undone, and the transaction goes on.
    timeout(SOON, insert(&mut tx, 3)).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let mut admin = rig.admin().await;
    assert_eq!((admin.rows().await, admin.running("pg_sleep").await), (vec![1, 3], 0));
    assert_eq!(quiet(&db).await.connects, 1);
}

/// Past its limit a statement is dropped: in a savepoint that is no reason to lose the transaction.
#[tokio::test]
async fn a_statement_that_timed_out_in_it() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1).timeout(Duration::from_millis(150));
    let mut tx = begin(&db).await;
    insert(&mut tx, 1).await.unwrap();
    let slow =
        tx.savepoint(async |sp: &mut TxConn| sqlx::query("SELECT pg_sleep(60)").execute(&mut *sp).await.map(drop));
    let error = Error::from(timeout(SOON, slow).await.unwrap().unwrap_err());
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    insert(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2]);
}

/// At every poll of everything that a savepoint does, its beginning and its end included.
#[tokio::test]
async fn dropped_at_any_poll() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    for rollback in [false, true] {
        let mut finished = false;
        for polls in 0..40 {
            admin.run("TRUNCATE t").await;
            let mut tx = begin(&db).await;
            insert(&mut tx, 1).await.unwrap();
            let part = async {
                let mut sp = tx.begin_savepoint().await?;
                insert(&mut sp, 2).await?;
                let mut inner = sp.begin_savepoint().await?;
                insert(&mut inner, 2).await?;
                inner.release().await?;
                if rollback {
                    sp.rollback().await
                } else {
                    sp.release().await
                }
            };
            finished = poll_and_drop(part, polls).await;
            timeout(SOON, insert(&mut tx, 3)).await.unwrap().unwrap();
            timeout(SOON, tx.commit()).await.unwrap().unwrap();
            let expected: &[i32] = if finished && !rollback { &[1, 2, 2, 3] } else { &[1, 3] };
            assert_eq!(
                admin.rows().await,
                expected,
                "after {polls} polls, rollback: {rollback}"
            );
            if finished {
                break;
            }
        }
        assert!(finished, "it takes fewer polls than that");
    }
    assert_eq!(quiet(&db).await.connects, 1);
}

/// Raw access does not wait: the rollback is sent before anything that the helper sends.
#[tokio::test]
async fn a_helper_on_the_connection_right_after_one_that_was_left() {
    async fn helper(conn: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::raw_sql("INSERT INTO t VALUES (3)").execute(conn).await.map(drop)
    }
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for failed in [false, true] {
        let mut tx = begin(&db).await;
        insert(&mut tx, 1).await.unwrap();
        let mut sp = tx.begin_savepoint().await.unwrap();
        insert(&mut sp, 2).await.unwrap();
        if failed {
            fail(&mut sp).await.unwrap_err();
        }
        drop(sp);
        helper(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let mut admin = rig.admin().await;
        assert_eq!(admin.rows().await, [1, 3]);
        admin.run("TRUNCATE t").await;
    }
}

/// The server knows what a helper on the raw connection did in it.
#[tokio::test]
async fn an_error_that_only_the_server_saw() {
    async fn helper(conn: &mut PgConnection) {
        sqlx::raw_sql("SELECT 1/0").execute(conn).await.unwrap_err();
    }
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    insert(&mut tx, 1).await.unwrap();
    let mut sp = tx.begin_savepoint().await.unwrap();
    helper(&mut sp).await;
    let error = sp.release().await.unwrap_err();
    assert!(matches!(error, Error::Aborted(_)), "{error:?}");
    insert(&mut tx, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2]);
}

#[tokio::test]
async fn none_in_an_aborted_transaction() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut tx = begin(&db).await;
    fail(&mut tx).await.unwrap_err();
    let error = tx.begin_savepoint().await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Aborted(_)), "{error:?}");
    sleep(Duration::from_millis(1)).await;
}
