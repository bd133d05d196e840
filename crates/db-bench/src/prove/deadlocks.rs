//! Transactions that get in each other's way: all commit, and nothing is lost over it.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use db_stack::{Db, Error, Isolation, TransactionStats, TxConn, TxOptions, transaction};
use db_testkit::Postgres;
use sqlx::PgConnection;
use tokio::{sync::Barrier, task::JoinSet, time::sleep};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
};

const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(10),
};
/// The server looks for deadlocks after so long; its default of a second would only make this slow.
const DETECTED_AFTER: &str = "10ms";
const DOCTORS: i32 = 8;
const PATIENT: u32 = 10;

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let (rounds, shifts) = if quick { (100, 20) } else { (500, 200) };
    println!(
        "{rounds} rounds of two tasks on the same two rows in opposite order; {shifts} rounds of {DOCTORS} serializable \
         transactions that may not all do what each may do alone"
    );
    let server = Postgres::builder().setting("deadlock_timeout", DETECTED_AFTER).start();
    let server = server.await.context("no throwaway PostgreSQL")?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO accounts VALUES (1, 0), (2, 0); \
         CREATE TABLE doctors (id int PRIMARY KEY, on_call bool NOT NULL)",
    )
    .execute(&mut admin)
    .await?;
    let mut findings = Findings::new();
    crossed(&server, &mut admin, rounds, &mut findings).await?;
    skewed(&server, &mut admin, shifts, &mut findings).await?;
    Ok(findings.verdict())
}

async fn crossed(
    server: &Postgres,
    admin: &mut PgConnection,
    rounds: u32,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let db = rig::db(&server.url(), LIMITS).await?;
    let together = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for order in [[1, 2], [2, 1]] {
        tasks.spawn(move_money(db.clone(), order, rounds, together.clone()));
    }
    let mut failed = 0;
    while let Some(lost) = tasks.join_next().await {
        failed += lost?;
    }
    let stats = db.retries().transactions;
    say("opposite order", &stats);
    let committed = u64::from(rounds) * 2;
    findings.expect("transactions that failed", failed, "0", failed == 0);
    findings.expect("committed", stats.committed, committed, stats.committed == committed);
    findings.expect("deadlocks", stats.deadlocks, "more than 0", stats.deadlocks > 0);
    let balances: Vec<i64> = sqlx::query_scalar("SELECT balance FROM accounts ORDER BY id")
        .fetch_all(admin)
        .await?;
    // What one task gives the other takes back.
    findings.expect("balances", format!("{balances:?}"), "[0, 0]", balances == [0, 0]);
    db.close().await;
    Ok(())
}

async fn move_money(db: Db, order: [i32; 2], rounds: u32, together: Arc<Barrier>) -> u64 {
    let mut failed = 0;
    for _ in 0..rounds {
        together.wait().await;
        let moved = transaction!(db, TxOptions::new().attempts(PATIENT), |tx| {
            for (id, amount) in order.into_iter().zip([1, -1]) {
                sqlx::query("UPDATE accounts SET balance = balance + $2 WHERE id = $1")
                    .bind(id)
                    .bind(amount)
                    .execute(&mut *tx)
                    .await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        });
        failed += u64::from(moved.await.is_err());
    }
    failed
}

async fn skewed(
    server: &Postgres,
    admin: &mut PgConnection,
    shifts: u32,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let db = rig::db(&server.url(), LIMITS).await?;
    // Eight that all read what all write run again more often than a budget for ordinary load allows.
    let mut config = (*db.config()).clone();
    config.retry.budget_ratio = 1.0;
    db.reload(config)?;
    let (mut broken, mut failed) = (0, 0);
    for _ in 0..shifts {
        sqlx::raw_sql("TRUNCATE doctors; INSERT INTO doctors SELECT i, true FROM generate_series(1, 8) AS i")
            .execute(&mut *admin)
            .await?;
        let mut tasks = JoinSet::new();
        for id in 1..=DOCTORS {
            tasks.spawn(go_home(db.clone(), id));
        }
        while let Some(gone) = tasks.join_next().await {
            failed += u64::from(gone?.is_err());
        }
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM doctors WHERE on_call")
            .fetch_one(&mut *admin)
            .await?;
        broken += u64::from(left < 1);
    }
    let stats = db.retries().transactions;
    say("write skew", &stats);
    let failures = stats.serialization_failures;
    findings.expect("serializable transactions that failed", failed, "0", failed == 0);
    findings.expect("rounds with a broken invariant", broken, "0", broken == 0);
    findings.expect("serialization failures", failures, "more than 0", failures > 0);
    db.close().await;
    Ok(())
}

/// Leaves unless nobody else would stay.
async fn go_home(db: Db, id: i32) -> Result<bool, Error> {
    let options = TxOptions::new().isolation(Isolation::Serializable).attempts(PATIENT);
    db.transaction_with(options, async move |tx: &mut TxConn| {
        let others: i64 = sqlx::query_scalar("SELECT count(*) FROM doctors WHERE on_call AND id <> $1")
            .bind(id)
            .fetch_one(&mut *tx)
            .await?;
        sleep(Duration::from_millis(1)).await;
        if others > 0 {
            sqlx::query("UPDATE doctors SET on_call = false WHERE id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        Ok(others > 0)
    })
    .await
}

fn say(what: &str, stats: &TransactionStats) {
    let took = stats.durations.map_or(Duration::ZERO, |durations| durations.p99);
    println!(
        "  {what:<15} committed {}, deadlocks {}, serialization failures {}, by attempts {:?}, p99 {:.1} ms",
        stats.committed,
        stats.deadlocks,
        stats.serialization_failures,
        stats.attempts,
        took.as_secs_f64() * 1000.0
    );
}
