//! Streams: one replayable answer up to a bound, with back-pressure beyond it, cancelled when dropped.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, quiet, rig, until};
use db_stack::{Db, Error, Sent};
use db_testkit::{CutStyle, Direction};
use futures::TryStreamExt;
use sqlx::{Either, Executor, Row};
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn one(db: &Db) {
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one, 1);
}

/// 2 KB a row, so that a cut after 6 KB comes in the midst of the rows.
const ROWS: &str = "SELECT n, repeat('x', 2000) FROM generate_series(1, 20) AS n";

#[tokio::test]
async fn a_cut_within_the_bound_is_one_error_and_no_row() {
    let rig = rig().await;
    let (proxy, db) = rig.proxied(1).await;
    // Prepared, so that nothing but the rows is counted.
    assert_eq!(sqlx::query(ROWS).fetch_all(&db).await.unwrap().len(), 20);
    for way in 0..3 {
        proxy.cut_after(Direction::ToClient, 6_000, CutStyle::Reset);
        let error = match way {
            0 => {
                let mut rows = sqlx::query(ROWS).fetch(&db);
                let error = timeout(SOON, rows.try_next())
                    .await
                    .unwrap()
                    .map(drop)
                    .expect_err("no row was handed out");
                assert!(matches!(rows.try_next().await, Ok(None)), "that was all");
                error
            }
            1 => sqlx::query_as::<_, (i32, String)>(ROWS)
                .fetch_all(&db)
                .await
                .unwrap_err(),
            _ => sqlx::query(ROWS).execute(&db).await.unwrap_err(),
        };
        assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
        assert!(matches!(Error::from(error), Error::Network { sent: Sent::Maybe, .. }));
        proxy.heal();
        // A new connection, with the statement prepared on it again.
        assert_eq!(sqlx::query(ROWS).fetch_all(&db).await.unwrap().len(), 20);
    }
}

#[tokio::test]
async fn a_server_error_within_the_bound_is_one_error_and_no_row() {
    let rig = rig().await;
    let db = rig.db(1);
    let mut rows = sqlx::query("SELECT 1 / (50 - n) FROM generate_series(1, 100) AS n").fetch(&db);
    let error = Error::from(rows.try_next().await.map(drop).expect_err("no row was handed out"));
    assert_eq!(error.sqlstate().unwrap().code(), "22012");
    drop(rows);
    one(&db).await;
    assert_eq!(db.stats().connects, 1);
}

#[tokio::test]
async fn an_error_beyond_the_bound_comes_after_the_rows_before_it() {
    let rig = rig().await;
    let db = rig.db(1);
    let mut rows =
        sqlx::query_scalar::<_, i32>("SELECT n + 0 / (5000 - n) FROM generate_series(1, 10000) AS n").fetch(&db);
    let mut last = 0;
    let error = loop {
        match rows.try_next().await {
            Ok(row) => {
                let row = row.expect("it fails before its end");
                assert_eq!(row, last + 1);
                last = row;
            }
            Err(error) => break Error::from(error),
        }
    };
    assert_eq!(error.sqlstate().unwrap().code(), "22012");
    assert!((256..5000).contains(&last), "{last}");
    drop(rows);
    one(&db).await;
    assert_eq!(db.stats().connects, 1);
}

#[tokio::test]
async fn every_row_once_and_in_order() {
    let rig = rig().await;
    let db = rig.db(2);
    for count in [0, 1, 255, 256, 257, 511, 512, 513, 5000] {
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, $1)")
            .bind(count)
            .fetch(&db);
        let mut seen = 0;
        while let Some(row) = rows.try_next().await.unwrap() {
            seen += 1;
            assert_eq!(row, seen);
            if seen % 100 == 0 {
                // A reader that is slower than the server.
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(seen, count);
        drop(rows);
        let steps: Vec<_> = (&db)
            .fetch_many(sqlx::query("SELECT generate_series(1, $1)").bind(count))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(steps.len() as i32, count + 1);
        assert!(matches!(&steps[count as usize], Either::Left(done) if done.rows_affected() == count as u64));
    }
    // Wide rows reach the bound in bytes first.
    let wide: Vec<(i32, String)> = sqlx::query_as("SELECT n, repeat('x', 5000) FROM generate_series(1, 100) AS n")
        .fetch(&db)
        .try_collect()
        .await
        .unwrap();
    assert!(wide.len() == 100 && wide.iter().zip(1..).all(|((n, text), i)| *n == i && text.len() == 5000));
}

#[tokio::test]
async fn a_slow_reader_holds_the_server_back() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let (proxy, db) = rig.proxied(1).await;
    one(&db).await;
    let before = proxy.counters();
    // 200 MB, if nobody holds it back.
    let mut rows = sqlx::query("SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) AS n").fetch(&db);
    for n in 1..=10 {
        assert_eq!(rows.try_next().await.unwrap().unwrap().get::<i32, _>(0), n);
    }
    let mut pulled = 0;
    until("nothing more comes", async || {
        sleep(Duration::from_millis(100)).await;
        pulled == std::mem::replace(&mut pulled, proxy.counters().since(&before).bytes_to_client)
    })
    .await;
    // A batch or two, and what the buffers on the way take.
    assert!(pulled < 20_000_000, "{pulled} bytes for ten rows");
    assert_eq!(admin.running("generate_series").await, 1, "it waits");
    for n in 11..=3000 {
        assert_eq!(rows.try_next().await.unwrap().unwrap().get::<i32, _>(0), n);
    }
    // Dropped early: stopped on the server, not drained.
    drop(rows);
    let drained = proxy.counters();
    one(&db).await;
    until("it is stopped", async || admin.running("generate_series").await == 0).await;
    let drained = proxy.counters().since(&drained).bytes_to_client;
    assert!(drained < 60_000_000, "{drained} bytes drained");
    assert_eq!(quiet(&db).await.size, 1);
}

#[tokio::test]
async fn a_stream_that_is_dropped_early_gives_the_lease_back() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    for read in [0, 1, 300] {
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 3000000)").fetch(&db);
        for _ in 0..read {
            rows.try_next().await.unwrap().unwrap();
        }
        assert_eq!(db.stats().in_use, u32::from(read > 0));
        drop(rows);
        let gone = tokio::time::Instant::now();
        one(&db).await;
        assert!(
            gone.elapsed() < Duration::from_secs(2),
            "the slot took {:?}",
            gone.elapsed()
        );
    }
    let connects = quiet(&db).await.connects;
    // Not even begun, while the server takes its time.
    let mut rows = sqlx::query("SELECT pg_sleep(60)").fetch(&db);
    assert!(timeout(Duration::from_millis(50), rows.try_next()).await.is_err());
    drop(rows);
    one(&db).await;
    assert_eq!(admin.running("pg_sleep").await, 0);
    assert_eq!(quiet(&db).await.connects, connects, "cancelled and reused");
}

#[tokio::test]
async fn a_stream_holds_one_lease_and_no_more() {
    let rig = rig().await;
    let db = rig.db(1);
    let mut first = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 1000)").fetch(&db);
    assert_eq!(first.try_next().await.unwrap(), Some(1));
    let other = tokio::spawn({
        let db = db.clone();
        async move { one(&db).await }
    });
    until("it waits", async || db.stats().waiting == 1).await;
    let rest: Vec<i32> = first.try_collect().await.unwrap();
    assert_eq!(rest.len(), 999);
    timeout(SOON, other).await.unwrap().unwrap();
}

#[tokio::test]
async fn each_statement_of_a_text_has_its_result() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    let script = "INSERT INTO t VALUES (1), (2), (3); UPDATE t SET n = n + 10 WHERE n < 3; DELETE FROM t; SELECT 1";
    let results: Vec<u64> = sqlx::raw_sql(script)
        .execute_many(&db)
        .map_ok(|done| done.rows_affected())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(results, [3, 2, 3, 1]);
    assert_eq!(
        sqlx::raw_sql(script).execute(&db).await.unwrap().rows_affected(),
        9,
        "summed"
    );
    let rows = (&db)
        .fetch_all("SELECT 1 AS n; SELECT 2 AS n; SELECT 3 AS n")
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.get::<i32, _>("n")).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    // The first one's row, and the later one's error.
    (&db).fetch_optional("SELECT 1; SELECT 1/0").await.unwrap_err();
    one(&db).await;
}
