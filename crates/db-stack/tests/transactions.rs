//! Transactions that run again when it was not their fault, and only then.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, poll_and_drop, quiet, rig, until};
use db_core::RetryCause;
use db_stack::{Db, Error, Isolation, SqlState, TransactionAborted, TxConn, TxOptions, transaction};
use sqlx::PgConnection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{sleep, timeout},
};

const UPDATE: &str = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";

async fn add(tx: &mut TxConn, id: i32, amount: i64) -> Result<(), Error> {
    sqlx::query(UPDATE).bind(id).bind(amount).execute(&mut *tx).await?;
    Ok(())
}

/// Two tasks, the same two rows in opposite order, in step so that they meet.
async fn crossed(db: Db, order: [i32; 2], rounds: u32, together: Arc<Barrier>) {
    for _ in 0..rounds {
        together.wait().await;
        let moved = transaction!(db, TxOptions::new().attempts(10), |tx| {
            add(&mut *tx, order[0], 1).await?;
            tokio::task::yield_now().await;
            add(&mut *tx, order[1], -1).await
        });
        timeout(SOON, moved).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn deadlocks_are_the_databases_business() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint); INSERT INTO accounts VALUES (1, 0), (2, 0)")
        .await;
    // Found after 10 ms instead of a second.
    admin
        .run("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 10', current_database()); END $$")
        .await;
    let db = rig.db(2);
    let together = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for order in [[1, 2], [2, 1]] {
        tasks.spawn(crossed(db.clone(), order, 50, together.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let stats = db.retries();
    assert_eq!(stats.transactions.committed, 100);
    assert!(stats.transactions.deadlocks > 0, "{stats:?}");
    assert_eq!(stats.transactions.deadlocks, stats.cause(RetryCause::Deadlock).retries);
    for id in [1, 2] {
        let sum = admin
            .number(&format!("SELECT balance FROM accounts WHERE id = {id}"))
            .await;
        assert_eq!(sum, 0, "what one gave the other took, 50 times each");
    }
    assert_eq!(quiet(&db).await.connects, 2);
}

/// The doctors on call: each may leave only while another one stays.
#[tokio::test]
async fn serializable_transactions_keep_the_invariant() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run("CREATE TABLE doctors (id int PRIMARY KEY, on_call bool); INSERT INTO doctors SELECT i, true FROM generate_series(1, 8) AS i")
        .await;
    let db = rig.db(8);
    let left = Arc::new(AtomicU32::new(0));
    for _ in 0..3 {
        admin.run("UPDATE doctors SET on_call = true").await;
        left.store(0, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        for id in 1..=8_i32 {
            let (db, left) = (db.clone(), left.clone());
            let options = TxOptions::new().isolation(Isolation::Serializable).attempts(10);
            tasks.spawn(async move {
                let gone = db.transaction_with(options, async move |tx: &mut TxConn| {
                    let others: i64 = sqlx::query_scalar("SELECT count(*) FROM doctors WHERE on_call AND id <> $1")
                        .bind(id)
                        .fetch_one(&mut *tx)
                        .await?;
                    sleep(Duration::from_millis(2)).await;
                    if others == 0 {
                        return Ok::<_, sqlx::Error>(false);
                    }
                    sqlx::query("UPDATE doctors SET on_call = false WHERE id = $1")
                        .bind(id)
                        .execute(&mut *tx)
                        .await?;
                    Ok(true)
                });
                left.fetch_add(
                    u32::from(timeout(SOON, gone).await.unwrap().unwrap()),
                    Ordering::Relaxed,
                );
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(admin.number("SELECT count(*) FROM doctors WHERE on_call").await, 1);
        assert_eq!(left.load(Ordering::Relaxed), 7);
    }
    assert!(db.retries().transactions.serialization_failures > 0);
}

#[tokio::test]
async fn an_error_of_the_body_rolls_back_and_is_handed_on() {
    #[derive(Debug)]
    enum Refused {
        NoMoney,
        Database,
    }
    impl From<sqlx::Error> for Refused {
        fn from(_: sqlx::Error) -> Self {
            Self::Database
        }
    }
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut ran = 0;
    let refused = transaction!(db, |tx| -> Result<(), Refused> {
        ran += 1;
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
        Err(Refused::NoMoney)
    });
    assert!(matches!(refused.await, Err(Refused::NoMoney)));
    // An error of the statement itself: not run again either.
    let wrong = transaction!(db, |tx| -> Result<(), Refused> {
        ran += 1;
        sqlx::query("INSERT INTO t VALUES (1/0)").execute(&mut *tx).await?;
        Ok(())
    });
    assert!(matches!(wrong.await, Err(Refused::Database)));
    assert_eq!((ran, rig.admin().await.rows().await.len()), (2, 0));
    let stats = quiet(&db).await;
    assert_eq!((stats.connects, stats.cleaned), (1, 0), "the lease was clean at once");
    let transactions = db.retries().transactions;
    assert_eq!((transactions.rolled_back, transactions.failed), (1, 1));
}

/// Of any kind of error, and swallowed ones too: it is read off the transaction.
#[tokio::test]
async fn a_failure_that_passes_is_seen_whatever_the_body_makes_of_it() {
    #[derive(Debug)]
    struct Opaque;
    impl From<sqlx::Error> for Opaque {
        fn from(_: sqlx::Error) -> Self {
            Self
        }
    }
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let fail = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$";
    for way in 0..4 {
        let mut ran = 0;
        let out = transaction!(db, |tx| -> Result<i32, Opaque> {
            ran += 1;
            sqlx::query("INSERT INTO t VALUES ($1)")
                .bind(way)
                .execute(&mut *tx)
                .await?;
            if ran == 1 {
                match way {
                    0 => _ = sqlx::raw_sql(fail).execute(&mut *tx).await?,
                    1 => drop(sqlx::raw_sql(fail).execute(&mut *tx).await),
                    2 => _ = sqlx::raw_sql(fail).execute(&mut *tx).await.map_err(|_| Opaque)?,
                    // In a savepoint: rolling back to it does not cure it.
                    _ => {
                        let part =
                            tx.savepoint(async |sp: &mut TxConn| sqlx::raw_sql(fail).execute(&mut *sp).await.map(drop));
                        part.await?;
                    }
                }
            }
            Ok(ran)
        });
        assert_eq!(timeout(SOON, out).await.unwrap().unwrap(), 2, "way {way}");
    }
    assert_eq!(rig.admin().await.rows().await, [0, 1, 2, 3]);
    assert_eq!(quiet(&db).await.connects, 1);
}

/// A helper on the raw connection: the body's error says what it was.
#[tokio::test]
async fn a_failure_on_the_raw_connection_is_seen_in_the_error() {
    async fn helper(conn: &mut PgConnection, fail: bool) -> sqlx::Result<()> {
        let code = if fail { "40P01" } else { "" };
        if fail {
            let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$");
            sqlx::raw_sql(sqlx::AssertSqlSafe(raise)).execute(&mut *conn).await?;
        }
        sqlx::raw_sql("INSERT INTO t VALUES (1)").execute(conn).await.map(drop)
    }
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let mut ran = 0;
    let out = transaction!(db, |tx| {
        ran += 1;
        helper(tx, ran == 1).await?;
        Ok(ran)
    });
    assert_eq!(timeout(SOON, out).await.unwrap().unwrap(), 2);
    assert_eq!(rig.admin().await.rows().await, [1]);
}

#[tokio::test]
async fn an_aborted_transaction_is_not_committed_by_the_closure_either() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let swallowed = db.transaction(async |tx: &mut TxConn| {
        let _ = sqlx::query("SELECT 1/0").execute(&mut *tx).await;
        Ok::<_, Error>(())
    });
    match swallowed.await {
        Err(Error::Aborted(TransactionAborted::StatementFailed(state))) => assert_eq!(state, SqlState::DivisionByZero),
        other => panic!("not aborted: {other:?}"),
    }
    assert_eq!(quiet(&db).await.cleaned, 0);
}

#[tokio::test]
async fn a_panic_in_the_body_leaves_nothing_behind() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let task = tokio::spawn({
        let db = db.clone();
        async move {
            db.transaction(async move |tx: &mut TxConn| {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
                if tx.deadline().is_some() {
                    panic!("in the body");
                }
                Ok::<_, sqlx::Error>(())
            })
            .await
        }
    });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(quiet(&db).await.connects, 1);
    let mut admin = rig.admin().await;
    assert_eq!((admin.rows().await.len(), admin.in_transaction().await), (0, 0));
    assert_eq!(db.retries().transactions.abandoned, 1);
    let mut tx = timeout(SOON, db.begin()).await.unwrap().unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(admin.rows().await, [2]);
}

#[tokio::test]
async fn dropped_at_any_poll_it_is_all_or_nothing() {
    let rig = rig().await.with_table().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    let mut finished = false;
    for polls in 0..60 {
        let transaction = db.transaction(async |tx: &mut TxConn| {
            for _ in 0..2 {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
            }
            tx.savepoint(async |sp: &mut TxConn| {
                sqlx::query("INSERT INTO t VALUES (1)")
                    .execute(&mut *sp)
                    .await
                    .map(drop)
            })
            .await
        });
        finished = poll_and_drop(transaction, polls).await;
        timeout(SOON, sqlx::query("SELECT 1").execute(&db))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(admin.rows().await.len() % 3, 0, "after {polls} polls");
        if finished {
            break;
        }
    }
    assert!(finished, "it takes fewer polls than that");
    assert_eq!((admin.in_transaction().await, quiet(&db).await.connects), (0, 1));
}

#[tokio::test]
async fn options_reach_the_server() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let all = TxOptions::new()
        .isolation(Isolation::Serializable)
        .read_only()
        .deferrable()
        .timeout(Duration::from_secs(7));
    let tx = db.begin_with_options(all).await.unwrap();
    let shown = async |tx: &mut TxConn, name: &str| -> String {
        sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut *tx)
            .await
            .unwrap()
    };
    let mut tx = tx;
    for (name, value) in [
        ("transaction_isolation", "serializable"),
        ("transaction_read_only", "on"),
        ("transaction_deferrable", "on"),
    ] {
        assert_eq!(shown(&mut tx, name).await, value, "{name}");
    }
    let newest = tx.server_version_num() >= Some(170_000);
    let limit = if newest {
        "transaction_timeout"
    } else {
        "idle_in_transaction_session_timeout"
    };
    assert_eq!(shown(&mut tx, limit).await, "7500ms");
    // Of its own wish: no other node will do, so it is not run again.
    let mut ran = 0;
    let refused = transaction!(db, TxOptions::new().read_only(), |tx| {
        ran += 1;
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
        Ok(())
    });
    drop(tx);
    let error = timeout(SOON, refused).await.unwrap().unwrap_err();
    assert_eq!((error.sqlstate(), ran), (Some(SqlState::ReadOnlyTransaction), 1));
    assert_eq!(quiet(&db).await.connects, 1, "and it costs no connection");
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_ended_on_both_sides() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let short = TxOptions::new().timeout(Duration::from_millis(200));
    // While a statement runs, between statements, and by the sum of many short ones.
    for way in 0..3 {
        let slow = db.transaction_with(short, async move |tx: &mut TxConn| {
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
            match way {
                0 => _ = sqlx::query("SELECT pg_sleep(60)").execute(&mut *tx).await?,
                1 => sleep(Duration::from_secs(60)).await,
                _ => {
                    for _ in 0..600 {
                        sqlx::query("SELECT pg_sleep(0.05)").execute(&mut *tx).await?;
                    }
                }
            }
            Ok::<_, Error>(())
        });
        let error = timeout(SOON, slow).await.unwrap().unwrap_err();
        let Error::Timeout(timeout) = error else {
            panic!("way {way}: {error:?}")
        };
        assert_eq!(timeout.origin, db_core::LimitOrigin::Transaction, "way {way}");
        assert_eq!(quiet(&db).await.connects, 1);
    }
    let mut admin = rig.admin().await;
    assert_eq!((admin.rows().await.len(), admin.running("pg_sleep").await), (0, 0));
    assert_eq!(db.retries().transactions.timed_out, 3);
    // And by the configuration alone.
    let mut config = (*db.config()).clone();
    config.transaction.timeout = Duration::from_millis(100);
    db.reload(config).unwrap();
    let mut tx = db.begin().await.unwrap();
    let error = Error::from(sqlx::query("SELECT pg_sleep(60)").execute(&mut *tx).await.unwrap_err());
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
}

/// Somebody may still be connecting when the server is back.
#[tokio::test]
async fn a_begin_that_finds_no_connection_waits_for_one() {
    let rig = rig().await.with_table().await;
    let (proxy, db) = rig.proxied(1).await;
    proxy.refuse_new();
    let begun = tokio::spawn({
        let db = db.clone();
        async move { db.begin().await }
    });
    until("it has failed to connect", async || db.stats().connect_failures > 0).await;
    proxy.heal();
    timeout(SOON, begun)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .rollback()
        .await
        .unwrap();
}
