//! Ten thousand calls, dropped at random points: no later caller ever sees anything of an earlier one.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, quiet, rig};
use db_stack::{Db, Error};
use futures::TryStreamExt;
use sqlx::Acquire;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

const CALLS: u64 = 10_000;
const TASKS: u64 = 16;

/// Every query asks for a number of its own, so that an answer to an earlier one is seen at once.
static NONCE: AtomicI64 = AtomicI64::new(0);

fn nonce() -> i64 {
    NONCE.fetch_add(1, Ordering::Relaxed)
}

/// One call of a random kind.
async fn call(db: &Db, kind: u8) -> Result<(), Error> {
    let n = nonce();
    match kind {
        0 => {
            let answer: i64 = sqlx::query_scalar("SELECT $1::int8").bind(n).fetch_one(db).await?;
            assert_eq!(answer, n);
        }
        1 => {
            let answer: (i64, String) = sqlx::query_as("SELECT $1::int8, repeat('x', 2000)")
                .bind(n)
                .fetch_one(db)
                .await?;
            assert_eq!((answer.0, answer.1.len()), (n, 2000));
        }
        2 => {
            let answers: Vec<i64> = sqlx::query_scalar("SELECT $1::int8 + g FROM generate_series(0, 999) AS g")
                .bind(n)
                .fetch_all(db)
                .await?;
            assert_eq!((answers.len(), answers[0], answers[999]), (1000, n, n + 999));
        }
        3 => {
            let mut rows = sqlx::query_scalar::<_, i64>("SELECT $1::int8 FROM generate_series(1, 600)")
                .bind(n)
                .fetch(db);
            while let Some(answer) = rows.try_next().await? {
                assert_eq!(answer, n);
            }
        }
        4 => {
            sqlx::query("INSERT INTO done VALUES ($1)").bind(n).execute(db).await?;
        }
        5 => {
            let mut tx = db.begin().await?;
            let answer: i64 = sqlx::query_scalar("SELECT $1::int8")
                .bind(n)
                .fetch_one(&mut *tx)
                .await?;
            assert_eq!(answer, n);
            sqlx::query("INSERT INTO pair VALUES ($1)")
                .bind(n)
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT INTO pair VALUES ($1)")
                .bind(n)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        6 => {
            let mut tx = db.begin().await?;
            sqlx::query("INSERT INTO pair VALUES ($1)")
                .bind(n)
                .execute(&mut *tx)
                .await?;
            let mut inner = tx.begin().await?;
            sqlx::query("INSERT INTO pair VALUES ($1)")
                .bind(n)
                .execute(&mut *inner)
                .await?;
            inner.commit().await?;
            tx.commit().await?;
        }
        7 => {
            let mut lease = db.acquire().await?;
            sqlx::raw_sql("BEGIN; SET LOCAL work_mem = '1234kB'; INSERT INTO dirt VALUES (1)")
                .execute(&mut *lease)
                .await?;
        }
        8 => {
            sqlx::query("SELECT pg_sleep(0.002)").execute(db).await?;
        }
        _ => {
            let error = sqlx::query("SELECT 1 / ($1::int8 - $1::int8)")
                .bind(n)
                .execute(db)
                .await
                .unwrap_err();
            let error = Error::from(error);
            assert!(
                error.sqlstate().is_some_and(|state| state.code() == "22012"),
                "{error:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leave_no_trace() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    admin
        .run("CREATE TABLE done (n int8); CREATE TABLE pair (n int8); CREATE TABLE dirt (n int8)")
        .await;
    let db = rig
        .builder(6)
        .configure(|config| config.pool.acquire_timeout = Duration::from_secs(20))
        .build()
        .unwrap();
    let (dropped, finished, inserts) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicI64::new(0)),
    );
    let seed = fastrand::u64(..);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (db, dropped, finished, inserts) = (db.clone(), dropped.clone(), finished.clone(), inserts.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(task));
                for _ in 0..CALLS / TASKS {
                    let kind = random.u8(0..10);
                    // The timer ticks in milliseconds: an offset lets the drop come between two of them, and some
                    // are dropped after a number of polls instead.
                    let patience = Instant::now() + Duration::from_micros(random.u64(0..4_000));
                    let outcome = if random.bool() {
                        timeout_at(patience, call(&db, kind)).await.ok()
                    } else {
                        let polls = random.u8(0..12);
                        after_polls(call(&db, kind), polls).await
                    };
                    match outcome {
                        Some(outcome) => {
                            // With its seed, since the points differ from run to run.
                            outcome.unwrap_or_else(|error| panic!("a later caller paid: {error:?} (seed {seed})"));
                            finished.fetch_add(1, Ordering::Relaxed);
                            inserts.fetch_add(i64::from(kind == 4), Ordering::Relaxed);
                        }
                        None => drop(dropped.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (dropped, finished) = (dropped.load(Ordering::Relaxed), finished.load(Ordering::Relaxed));
    assert!(
        dropped > CALLS / 5 && finished > CALLS / 20,
        "{dropped} dropped, {finished} finished"
    );

    // The proof: every connection at once, and each of them is as it was set up.
    let stats = quiet(&db).await;
    assert!(stats.size <= 6, "{stats:?}");
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(tokio::time::timeout(SOON, db.acquire()).await.unwrap().unwrap());
    }
    for lease in &mut leases {
        use sqlx::Row;
        let row = sqlx::raw_sql(
            "SELECT now() = statement_timestamp() AS outside, current_setting('work_mem') <> '1234kB' AS clean, \
             (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) = 0 AS free",
        );
        let row = row.fetch_one(&mut **lease).await.unwrap();
        for column in ["outside", "clean", "free"] {
            assert!(row.get::<bool, _>(column), "{column} (seed {seed})");
        }
    }
    drop(leases);
    assert_eq!(admin.in_transaction().await, 0);
    assert_eq!(admin.running("pg_sleep").await, 0);
    assert_eq!(
        admin.number("SELECT count(*) FROM dirt").await,
        0,
        "nobody's open transaction was committed by another"
    );
    let halves = admin
        .number("SELECT count(*) FROM (SELECT n FROM pair GROUP BY n HAVING count(*) <> 2) AS odd")
        .await;
    assert_eq!(halves, 0, "transactions are whole");
    let done = admin.number("SELECT count(*) FROM done").await;
    assert!(
        done >= inserts.load(Ordering::Relaxed),
        "acknowledged inserts are there"
    );
}

/// Polls as its waker says, but at most so many times.
async fn after_polls<F: Future>(future: F, polls: u8) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
