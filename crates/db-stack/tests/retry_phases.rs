//! Every phase of a call, broken exactly there: what is tried again, and what is only reported.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, quiet, rig, until};
use db_core::RetryCause;
use db_stack::{Db, Error, Sent, transaction};
use db_testkit::{Cut, Direction, FaultProxy, Matches};
use std::time::Duration;
use tokio::time::timeout;

struct Bench {
    rig: Rig,
    proxy: FaultProxy,
    db: Db,
}

async fn bench() -> Bench {
    let rig = rig().await.with_table().await;
    let (proxy, db) = rig.proxied(1).await;
    Bench { rig, proxy, db }
}

impl Bench {
    async fn warm(&self) {
        read(&self.db).await.unwrap();
        quiet(&self.db).await;
    }

    async fn rows(&self) -> usize {
        self.rig.admin().await.rows().await.len()
    }

    fn retries(&self, cause: RetryCause) -> u64 {
        self.db.retries().cause(cause).retries
    }
}

async fn read(db: &Db) -> Result<i64, Error> {
    let read = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(db);
    Ok(timeout(SOON, read).await.unwrap()?)
}

async fn write(db: &Db) -> Result<(), Error> {
    let write = sqlx::query("INSERT INTO t VALUES (1)").execute(db);
    timeout(SOON, write).await.unwrap()?;
    Ok(())
}

/// What counts is whether it was sent, so reads and writes alike.
#[tokio::test]
async fn while_connecting() {
    for idempotent in [false, true] {
        let bench = bench().await;
        bench.proxy.refuse_new();
        let db = if idempotent {
            bench.db.idempotent()
        } else {
            bench.db.clone()
        };
        let call = tokio::spawn(async move { write(&db).await });
        until("it has failed", async || bench.db.stats().connect_failures > 0).await;
        bench.proxy.heal();
        call.await.unwrap().unwrap();
        assert_eq!(bench.rows().await, 1);
    }
}

#[tokio::test]
async fn before_it_is_sent_and_after() {
    let bench = bench().await;
    for (cut, ran) in [
        (Cut::before("INSERT"), 0),
        (Cut::after("INSERT"), 1),
        (Cut::after_reply("INSERT"), 1),
    ] {
        bench.warm().await;
        bench.rig.admin().await.run("TRUNCATE t").await;
        bench.proxy.cut_at(cut.clone());
        // From here nobody can tell them apart, so a write is never repeated.
        let error = write(&bench.db).await.unwrap_err();
        assert!(
            matches!(error, Error::Network { sent: Sent::Maybe, .. }),
            "{cut:?}: {error:?}"
        );
        assert_eq!(bench.proxy.cuts_waiting(), 0);
        until("the server is done with it", async || bench.rows().await == ran).await;
        // By the caller's word it is.
        bench.warm().await;
        bench.proxy.cut_at(cut.clone());
        let before = bench.retries(RetryCause::ConnectionLost);
        write(&bench.db.idempotent()).await.unwrap();
        assert_eq!(bench.retries(RetryCause::ConnectionLost), before + 1, "{cut:?}");
    }
    for cut in [Cut::before("SELECT"), Cut::after("SELECT"), Cut::after_reply("SELECT")] {
        bench.warm().await;
        bench.proxy.cut_at(cut);
        read(&bench.db).await.unwrap();
        assert_eq!(bench.proxy.cuts_waiting(), 0);
    }
}

/// Rows had come, but none had been handed out; and then some had.
#[tokio::test]
async fn while_rows_are_read() {
    use futures::TryStreamExt;
    let bench = bench().await;
    bench.warm().await;
    let some = "SELECT i FROM generate_series(1, 200) AS i";
    bench.proxy.cut_after(Direction::ToClient, 1_000, Default::default());
    // New connections start after the cut was injected and have it too, so it has to go.
    let all = tokio::spawn({
        let db = bench.db.clone();
        async move { sqlx::query_scalar::<_, i32>(some).fetch_all(&db).await }
    });
    until("it is cut", async || bench.db.retries().retries() > 0).await;
    bench.proxy.heal();
    assert_eq!(timeout(SOON, all).await.unwrap().unwrap().unwrap().len(), 200);

    // 2,000 rows: the first ones are handed out before the cut.
    bench.warm().await;
    let many = "SELECT i FROM generate_series(1, 2000) AS i";
    let mut rows = sqlx::query_scalar::<_, i32>(many).fetch(&bench.db);
    let first = timeout(SOON, rows.try_next()).await.unwrap().unwrap();
    assert_eq!(first, Some(1));
    bench.proxy.cut_all(Default::default());
    let mut seen = 1;
    let end = loop {
        match timeout(SOON, rows.try_next()).await.unwrap() {
            Ok(Some(row)) => {
                seen += 1;
                assert_eq!(row, seen, "in order, and none twice");
            }
            end => break end,
        }
    };
    // All may have been on their way already; otherwise the error is handed on.
    assert!(end.is_err() || seen == 2000);
}

/// Nothing is repeated but the whole, and that as long as COMMIT was not sent.
#[tokio::test]
async fn in_a_transaction() {
    let bench = bench().await;
    let cuts = [
        Cut::before("").matching(Matches::Runs("BEGIN".to_owned())),
        Cut::after("BEGIN"),
        Cut::before("INSERT"),
        Cut::after_reply("INSERT"),
        Cut::before("INSERT").nth(2),
        Cut::after_reply("INSERT").nth(2),
    ];
    for (round, cut) in cuts.into_iter().enumerate() {
        bench.warm().await;
        bench.proxy.cut_at(cut.clone());
        let mut ran = 0;
        let both = transaction!(bench.db, |tx| {
            ran += 1;
            for _ in 0..2 {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
            }
            Ok(())
        });
        timeout(SOON, both).await.unwrap().unwrap();
        assert_eq!(bench.proxy.cuts_waiting(), 0, "{cut:?}");
        assert_eq!(ran, if round < 2 { 1 } else { 2 }, "{cut:?}");
        assert_eq!(bench.rows().await, (round + 1) * 2, "{cut:?}");
    }
    assert_eq!(bench.retries(RetryCause::ConnectionLost), 6);
}

#[tokio::test]
async fn during_commit() {
    let bench = bench().await;
    for (round, cut) in [Cut::before("COMMIT"), Cut::after("COMMIT"), Cut::after_reply("COMMIT")]
        .into_iter()
        .enumerate()
    {
        bench.warm().await;
        bench.proxy.cut_at(cut.clone());
        let mut ran = 0;
        let one = transaction!(bench.db, |tx| {
            ran += 1;
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
            Ok(())
        });
        let error = timeout(SOON, one).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::CommitUnknown { .. }), "{cut:?}: {error:?}");
        assert_eq!(ran, 1, "never repeated: {cut:?}");
        until("the server is done with it", async || bench.rows().await == round).await;
    }
    assert_eq!(bench.db.retries().transactions.unknown, 3);
}

/// A server that says nothing at all: the limit ends it, and nothing that may have run is repeated.
#[tokio::test]
async fn a_network_that_is_dead() {
    let bench = bench().await;
    bench.warm().await;
    bench.proxy.half_open();
    let error = write(&bench.db.timeout(Duration::from_millis(200))).await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert_eq!(bench.db.retries().retries(), 0);
    read(&bench.db).await.unwrap();
    assert_eq!(bench.rows().await, 0);
}
