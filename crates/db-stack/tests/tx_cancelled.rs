//! A transaction whose future is dropped, anywhere: nothing of it is committed, nobody else is in it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, poll_and_drop, quiet, rig, until};
use db_stack::{Db, Error, TransactionAborted, Tx};
use futures::TryStreamExt;
use sqlx::Acquire;
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn insert(db: &Db, n: i32) {
    let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(db);
    timeout(SOON, insert).await.unwrap().unwrap();
}

/// Fact 4: BEGIN is on the wire, sqlx believes in depth 0, and the next caller's insert is lost.
#[tokio::test]
async fn a_begin_that_is_dropped_at_any_poll() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    insert(&db, -1).await;
    let mut finished = false;
    for polls in 0..40 {
        finished = poll_and_drop(db.begin(), polls).await;
        insert(&db, polls.try_into().unwrap()).await;
        assert_eq!(
            admin.rows().await.len(),
            polls as usize + 2,
            "the next caller's row is committed after {polls} polls"
        );
        if finished {
            break;
        }
    }
    assert!(finished, "begin takes fewer polls than that");
    assert_eq!(admin.in_transaction().await, 0);
    assert_eq!(quiet(&db).await.connects, 1, "made clean, not thrown away");
}

/// The same with the answer held back, so that the drop surely comes between BEGIN and its answer.
#[tokio::test]
async fn a_begin_that_is_dropped_while_it_is_on_the_wire() {
    use db_testkit::Direction;
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let (proxy, db) = rig.proxied(1).await;
    insert(&db, 0).await;
    for n in 1..=5 {
        proxy.delay(Direction::ToClient, Duration::from_millis(40));
        assert!(timeout(Duration::from_millis(20), db.begin()).await.is_err());
        proxy.delay(Direction::ToClient, Duration::ZERO);
        insert(&db, n).await;
        assert_eq!(admin.rows().await.len() as i32, n + 1);
    }
}

#[tokio::test]
async fn a_cancelled_statement_poisons() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    let sleeping = sqlx::query("SELECT pg_sleep(60)").execute(&mut *tx);
    assert!(timeout(Duration::from_millis(100), sleeping).await.is_err());
    // Nobody knows how far it came, so nothing may follow.
    let error = Error::from(
        sqlx::query("INSERT INTO t VALUES (2)")
            .execute(&mut *tx)
            .await
            .unwrap_err(),
    );
    assert!(
        matches!(error, Error::Aborted(TransactionAborted::StatementCancelled)),
        "{error:?}"
    );
    let error = tx.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::Aborted(TransactionAborted::StatementCancelled)),
        "{error:?}"
    );
    insert(&db, 3).await;
    assert_eq!(admin.rows().await, [3]);
    assert_eq!(admin.running("pg_sleep").await, 0);
    assert_eq!(quiet(&db).await.connects, 1);
}

/// At every poll of every step; what was acknowledged is there, what was not begun is not.
#[tokio::test]
async fn a_whole_transaction_that_is_dropped_at_any_poll() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    insert(&db, 0).await;
    let mut acknowledged = 1;
    let mut finished = false;
    for polls in 0..80 {
        let transaction = async {
            let mut tx = db.begin().await?;
            for _ in 0..2 {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
            }
            let mut inner = tx.begin().await?;
            sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *inner).await?;
            inner.commit().await?;
            tx.commit().await
        };
        finished = poll_and_drop(transaction, polls).await;
        insert(&db, 7).await;
        acknowledged += 1;
        // All of it or nothing, whether COMMIT had been sent or not.
        assert_eq!(
            admin.number("SELECT count(*) FROM t WHERE n = 2").await * 2,
            admin.number("SELECT count(*) FROM t WHERE n = 1").await
        );
        assert_eq!(
            admin.number("SELECT count(*) FROM t WHERE n IN (0, 7)").await,
            acknowledged,
            "after {polls} polls"
        );
        if finished {
            break;
        }
    }
    assert!(finished, "it takes fewer polls than that");
    assert_eq!(admin.in_transaction().await, 0);
}

/// F2: a nested `begin` of sqlx that is dropped rolls the outer transaction back, and its commit says `Ok`.
#[tokio::test]
async fn a_nested_begin_that_is_dropped_at_any_poll() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    for polls in 0..20 {
        admin.run("TRUNCATE t").await;
        let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
        let finished = poll_and_drop(tx.begin(), polls).await;
        let second = sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *tx).await.is_ok();
        let committed = tx.commit().await.is_ok();
        until("its end is seen", async || admin.in_transaction().await == 0).await;
        let expected: &[i32] = if committed { &[1, 2] } else { &[] };
        assert_eq!(
            (admin.rows().await.as_slice(), second || !committed),
            (expected, true),
            "after {polls} polls"
        );
        if finished {
            assert!(committed);
            return;
        }
    }
    panic!("begin takes fewer polls than that");
}

#[tokio::test]
async fn a_stream_that_is_not_read_to_its_end() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    // The rest is fine: the transaction goes on.
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    {
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 2000)").fetch(&mut *tx);
        assert_eq!(rows.try_next().await.unwrap(), Some(1));
    }
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(admin.rows().await, [1, 2]);
    // The rest fails unseen: the commit sees it.
    let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
    sqlx::query("INSERT INTO t VALUES (3)").execute(&mut *tx).await.unwrap();
    {
        let mut rows =
            sqlx::query_scalar::<_, i32>("SELECT 1 / (1000 - n) FROM generate_series(1, 1000) AS n").fetch(&mut *tx);
        assert_eq!(rows.try_next().await.unwrap(), Some(0));
    }
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::Aborted(_)), "{error:?}");
    assert_eq!(admin.rows().await, [1, 2]);
}

#[tokio::test]
async fn a_commit_that_is_dropped_is_committed_or_not_and_nothing_in_between() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    let mut rows = 0;
    for polls in 0..12 {
        let mut tx: Tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
        for _ in 0..2 {
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
        }
        let finished = poll_and_drop(tx.commit(), polls).await;
        quiet(&db).await;
        let now = admin.number("SELECT count(*) FROM t").await;
        assert!(now == rows || now == rows + 2, "{now} after {rows}");
        assert!(!finished || now == rows + 2, "an acknowledged commit is there");
        rows = now;
    }
    assert_eq!(admin.in_transaction().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_inside() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    for step in 0..3 {
        let db = db.clone();
        let task = tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            for _ in 0..step {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
            }
            panic!("on purpose");
        });
        assert!(timeout(SOON, task).await.unwrap().unwrap_err().is_panic());
    }
    insert(&db, 9).await;
    assert_eq!(admin.rows().await, [9]);
}

#[test]
fn a_transaction_outlives_its_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let outer = runtime();
    let rig = outer.block_on(async { rig().await.with_table().await });
    let inner = runtime();
    let db = rig.db(2);
    let (tx, lease) = inner.block_on(async {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
        (tx, db.acquire().await.unwrap())
    });
    drop(inner);
    drop(tx);
    drop(lease);
    drop(db);
    outer.block_on(async {
        let mut admin = rig.admin().await;
        until("the server has nobody left", async || admin.sessions().await == 0).await;
        assert_eq!(admin.rows().await, [0; 0]);
        sleep(Duration::from_millis(1)).await;
    });
}
