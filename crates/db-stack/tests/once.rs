//! Exactly once, whatever breaks.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, poll_and_drop, rig};
use db_stack::{Db, Error, ONCE_TABLE, Once, SqlState, TxConn};
use db_testkit::Cut;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

async fn prepared() -> Rig {
    let rig = rig().await.with_table().await;
    rig.admin().await.run(ONCE_TABLE).await;
    rig
}

async fn insert(db: &Db, key: &str, n: i32) -> Result<Once<i32>, Error> {
    let once = db.transaction_once(key, async move |tx: &mut TxConn| {
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(n)
            .execute(&mut *tx)
            .await?;
        Ok::<_, Error>(n)
    });
    timeout(SOON, once).await.unwrap()
}

#[tokio::test]
async fn the_second_time_it_has_been_done() {
    let rig = prepared().await;
    let db = rig.db(2);
    assert_eq!(insert(&db, "a", 1).await.unwrap(), Once::Ran(1));
    assert_eq!(insert(&db, "a", 2).await.unwrap(), Once::AlreadyCommitted);
    assert_eq!(insert(&db, "b", 3).await.unwrap(), Once::Ran(3));
    assert_eq!(rig.admin().await.rows().await, [1, 3]);
    // The session's own limit on locks is back within the transaction.
    let limits = db.transaction_once("c", async |tx: &mut TxConn| {
        sqlx::query_scalar::<_, String>("SHOW lock_timeout")
            .fetch_one(&mut *tx)
            .await
    });
    assert_eq!(limits.await.unwrap(), Once::Ran("10s".to_owned()));
    assert_eq!(db.stats().cleaned, 0, "and the lease was clean at once");
}

#[tokio::test]
async fn what_failed_may_be_tried_again() {
    let rig = prepared().await;
    let db = rig.db(1);
    let refused = db.transaction_once("a", async |tx: &mut TxConn| {
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
        Err::<(), _>(sqlx::Error::RowNotFound)
    });
    refused.await.unwrap_err();
    assert_eq!(insert(&db, "a", 2).await.unwrap(), Once::Ran(2));
    assert_eq!(rig.admin().await.rows().await, [2]);
}

/// The answer to COMMIT is lost: the next attempt finds the token, or does what was not done.
#[tokio::test]
async fn an_unknown_commit_is_looked_up() {
    let rig = prepared().await;
    let (proxy, db) = rig.proxied(2).await;
    let mut admin = rig.admin().await;
    for (n, cut, answer) in [
        (1, Cut::after("COMMIT"), None),
        (2, Cut::after_reply("COMMIT"), Some(Once::AlreadyCommitted)),
        (3, Cut::before("COMMIT"), Some(Once::Ran(3))),
    ] {
        proxy.cut_at(cut.clone());
        let once = insert(&db, &n.to_string(), n).await.unwrap();
        assert_eq!(proxy.cuts_waiting(), 0);
        // Right after COMMIT was sent it is the server's to say which attempt does it.
        assert!(answer.is_none_or(|answer| answer == once), "{cut:?}: {once:?}");
        assert_eq!(admin.rows().await, (1..=n).collect::<Vec<_>>(), "{cut:?}");
    }
    assert_eq!(db.retries().transactions.unknown, 0);
}

#[tokio::test]
async fn a_result_that_is_kept() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Receipt {
        number: u64,
        note: Option<String>,
    }
    let rig = prepared().await;
    let (proxy, db) = rig.proxied(2).await;
    let receipt = Receipt {
        number: u64::MAX,
        note: Some("\u{1F980} \"quoted\"".to_owned()),
    };
    for round in 0..2 {
        if round == 0 {
            proxy.cut_at(Cut::after_reply("COMMIT"));
        }
        let receipt = receipt.clone();
        let stored = db.transaction_once_stored("a", {
            let receipt = receipt.clone();
            async move |tx: &mut TxConn| {
                sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
                Ok::<_, sqlx::Error>(receipt.clone())
            }
        });
        assert_eq!(timeout(SOON, stored).await.unwrap().unwrap(), receipt);
    }
    let nothing = db.transaction_once_stored("b", async |_: &mut TxConn| Ok::<_, sqlx::Error>(()));
    nothing.await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1]);
    // A key that was used without a result has none to give.
    insert(&db, "c", 2).await.unwrap();
    let error = db
        .transaction_once_stored("c", async |_: &mut TxConn| Ok::<_, sqlx::Error>(1))
        .await
        .unwrap_err();
    assert!(matches!(error, sqlx::Error::Decode(_)), "{error:?}");
}

#[tokio::test]
async fn two_at_the_same_time() {
    let rig = prepared().await;
    let db = rig.db(4);
    for key in 0..10 {
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let db = db.clone();
            tasks.spawn(async move { insert(&db, &key.to_string(), key).await.unwrap() });
        }
        let mut ran = 0;
        while let Some(once) = tasks.join_next().await {
            ran += u32::from(once.unwrap() == Once::Ran(key));
        }
        assert_eq!(ran, 1);
    }
    assert_eq!(rig.admin().await.rows().await, (0..10).collect::<Vec<_>>());
}

/// Somebody holds the key for longer than we wait: nobody can say, and nothing is done twice.
#[tokio::test]
async fn a_key_that_stays_held() {
    let rig = prepared().await;
    let db = rig.db(2);
    let mut holder = rig.admin().await;
    holder
        .run("BEGIN; INSERT INTO db_stack_once VALUES ('a', NULL, now() + interval '1 day')")
        .await;
    let since = Instant::now();
    let error = insert(&db, "a", 1).await.unwrap_err();
    let Error::CommitUnknown { source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.sqlstate(), Some(SqlState::LockNotAvailable));
    assert!(since.elapsed() >= Duration::from_secs(4), "it was worth a wait");
    holder.run("ROLLBACK").await;
    assert_eq!(insert(&db, "a", 1).await.unwrap(), Once::Ran(1));
}

#[tokio::test]
async fn dropped_at_any_poll_and_called_again() {
    let rig = prepared().await;
    let db = rig.db(1);
    let mut polls = 0;
    while !poll_and_drop(insert(&db, "a", 1), polls).await {
        polls += 1;
        assert!(polls < 60, "it takes fewer polls than that");
        // At most once so far, and once for certain when it was called to its end.
        assert!(rig.admin().await.rows().await.len() <= 1);
        let key = format!("other {polls}");
        insert(&db, &key, 0).await.unwrap();
        rig.admin().await.run("DELETE FROM t WHERE n = 0").await;
    }
    assert_eq!(rig.admin().await.rows().await, [1]);
}

#[tokio::test]
async fn tokens_expire() {
    let rig = prepared().await;
    let db = rig.db(1);
    insert(&db, "old", 1).await.unwrap();
    insert(&db, "new", 2).await.unwrap();
    let mut admin = rig.admin().await;
    let kept = "SELECT count(*) FROM db_stack_once WHERE expires_at BETWEEN now() + interval '23 h' AND now() + interval '25 h'";
    assert_eq!(admin.number(kept).await, 2);
    admin
        .run("UPDATE db_stack_once SET expires_at = now() - interval '1 s' WHERE key = 'old'")
        .await;
    assert_eq!(db.sweep_once().await.unwrap(), 1);
    assert_eq!(db.sweep_once().await.unwrap(), 0);
    assert_eq!(insert(&db, "new", 3).await.unwrap(), Once::AlreadyCommitted);
}

#[tokio::test]
async fn a_missing_table_and_a_bad_key_are_explained() {
    let rig = rig().await.with_table().await;
    let db = rig.db(2);
    let error = insert(&db, "a", 1).await.unwrap_err();
    assert!(error.to_string().contains("create_once_table"), "{error}");
    let (one, two) = tokio::join!(db.create_once_table(), db.create_once_table());
    one.and(two).unwrap();
    insert(&db, "a", 1).await.unwrap();
    for key in [String::new(), "x".repeat(513)] {
        let error = insert(&db, &key, 2).await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
    insert(&db, &"x".repeat(512), 2).await.unwrap();
    assert_eq!(rig.admin().await.rows().await, [1, 2]);
}

#[test]
fn the_migration_is_the_same_table() {
    let migration = include_str!("../../../migrations/0004_once.up.sql");
    assert_eq!(migration, ONCE_TABLE);
}

/// The short form of `cargo xtask prove exactly-once`: connections cut at random bytes, COMMIT included.
#[tokio::test]
async fn connections_cut_at_random_bytes() {
    const WORKERS: i32 = 4;
    const EACH: i32 = 60;
    let rig = prepared().await;
    let (proxy, db) = rig.proxied(4).await;
    insert(&db, "warm", -1).await.unwrap();
    proxy.chaos(7, 4_000);
    let mut tasks = JoinSet::new();
    for worker in 0..WORKERS {
        let db = db.clone();
        tasks.spawn(async move {
            for n in 0..EACH {
                let n = worker * EACH + n;
                // As a client does that was told "unknown": the same key again.
                while insert(&db, &n.to_string(), n).await.is_err() {}
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    proxy.heal();
    let mut admin = rig.admin().await;
    let rows = admin.rows().await;
    assert_eq!(rows, (-1..WORKERS * EACH).collect::<Vec<_>>(), "each exactly once");
    assert!(proxy.counters().cuts > 10, "{:?}", proxy.counters());
}
