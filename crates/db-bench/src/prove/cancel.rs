//! Timeouts that really cancel: the statement ends on the server, the slot comes back, and nobody else is hit.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use db_stack::{CloseReason, Db, Error};
use db_testkit::Postgres;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
};

const ACQUIRE: Duration = Duration::from_secs(5);
/// How long the statement would run if nobody cancelled it.
const STATEMENT: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_millis(200);
const LEASES: u32 = 8;
/// How near to a query's end its timeout fires.
const NEAR: Duration = Duration::from_millis(1);
/// By how much the aim follows each outcome.
const STEP: Duration = Duration::from_micros(100);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let races = if quick { 1_500 } else { 5_000 };
    let server = rig::server().await?;
    let mut findings = Findings::new();
    slot(&server, &mut findings, quick, false).await?;
    slot(&server, &mut findings, quick, true).await?;
    exhausted(&server, &mut findings, quick).await?;
    race(&server, &mut findings, races).await?;
    Ok(findings.verdict())
}

/// One connection, one statement of 30 s: given up by its timeout, or by dropping its future.
async fn slot(server: &Postgres, findings: &mut Findings, quick: bool, drop_it: bool) -> anyhow::Result<()> {
    let how = if drop_it { "dropped" } else { "timed out" };
    let db = rig::db(
        &server.url(),
        Limits {
            max: 1,
            acquire: ACQUIRE,
        },
    )
    .await?;
    let sleeper = sqlx::query("SELECT pg_sleep(30)");
    let since = Instant::now();
    if drop_it {
        ensure!(
            timeout(LIMIT, sleeper.execute(&db)).await.is_err(),
            "it ended by itself"
        );
    } else {
        let out = sleeper.execute(&db.timeout(LIMIT)).await;
        ensure!(
            out.is_err_and(|e| matches!(e.into(), Error::Timeout(_))),
            "it did not time out"
        );
    }
    let overrun = since.elapsed().saturating_sub(LIMIT);
    let since = Instant::now();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await?;
    ensure!(one == 1, "a wrong answer");
    let back = since.elapsed();
    let sleepers = sleepers(server).await?;
    if quick {
        let share = back.as_secs_f64() / STATEMENT.as_secs_f64();
        let what = format!("{how}: slot back, as a share of the statement");
        findings.expect(&what, format!("{share:.4}"), "< 0.1", share < 0.1);
        findings.note(&format!("{how}: past the limit"), format!("{} ms", overrun.as_millis()));
    } else {
        let (ms, limit) = (overrun.as_millis(), 50);
        findings.expect(
            &format!("{how}: past the limit"),
            format!("{ms} ms"),
            "<= 50 ms",
            ms <= limit,
        );
        let ms = back.as_millis();
        findings.expect(
            &format!("{how}: slot back after"),
            format!("{ms} ms"),
            "<= 200 ms",
            ms <= 200,
        );
    }
    findings.expect(
        &format!("{how}: still running on the server"),
        sleepers,
        "0",
        sleepers == 0,
    );
    db.close().await;
    Ok(())
}

/// Every lease is asleep: the control path must not need one.
async fn exhausted(server: &Postgres, findings: &mut Findings, quick: bool) -> anyhow::Result<()> {
    let db = rig::db(
        &server.url(),
        Limits {
            max: LEASES,
            acquire: ACQUIRE,
        },
    )
    .await?;
    let since = Instant::now();
    let impatient = db.timeout(LIMIT);
    let calls = (0..LEASES).map(|_| sqlx::query("SELECT pg_sleep(30)").execute(&impatient));
    let given_up = join_all(calls).await.into_iter().filter(Result::is_err).count();
    let overrun = since.elapsed().saturating_sub(LIMIT);
    let all = LEASES as usize;
    findings.expect("pool exhausted: timed out", given_up, all, given_up == all);
    if quick {
        findings.note("pool exhausted: past the limit", format!("{} ms", overrun.as_millis()));
    } else {
        let ms = overrun.as_millis();
        findings.expect(
            "pool exhausted: past the limit",
            format!("{ms} ms"),
            "<= 100 ms",
            ms <= 100,
        );
    }
    // The last cancels may still be on their way when the callers have their errors.
    let mut left = sleepers(server).await?;
    for _ in 0..20 {
        if left == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        left = sleepers(server).await?;
    }
    findings.expect("pool exhausted: still running", left, 0, left == 0);
    db.close().await;
    Ok(())
}

#[derive(Default)]
struct Tally {
    timed_out: usize,
    finished: usize,
    innocent_hit: usize,
    wrong: usize,
}

/// Timeouts that fire within 1 ms of completion, and an innocent query right behind each on the same leases.
async fn race(server: &Postgres, findings: &mut Findings, races: usize) -> anyhow::Result<()> {
    let db = rig::db(
        &server.url(),
        Limits {
            max: LEASES,
            acquire: ACQUIRE,
        },
    )
    .await?;
    let usual = Arc::new(usual(&db).await?);
    let each = races / LEASES as usize;
    let runners = (0..LEASES).map(|runner| {
        let (db, usual) = (db.clone(), usual.clone());
        tokio::spawn(async move {
            let mut tally = Tally::default();
            let mut random = fastrand::Rng::with_seed(runner.into());
            // Follows the query's own duration, so that about half of the timeouts win, whatever else the machine does.
            let mut aim = *usual;
            for _ in 0..each {
                let nonce = random.i64(..);
                // Within 1 ms around the end.
                let limit = aim.saturating_sub(NEAR) + (NEAR * 2).mul_f64(random.f64());
                match number(&db.timeout(limit), "SELECT $1::int8 FROM pg_sleep(0.003)", nonce).await {
                    Ok(answer) if answer == nonce => {
                        tally.finished += 1;
                        aim = aim.saturating_sub(STEP);
                    }
                    Err(Error::Timeout(_)) => {
                        tally.timed_out += 1;
                        aim += STEP;
                    }
                    // The limit passed while it waited for a lease.
                    Err(Error::Acquire(_)) => aim += STEP,
                    Ok(_) | Err(_) => tally.wrong += 1,
                }
                let nonce = random.i64(..);
                match number(&db, "SELECT $1::int8", nonce).await {
                    Ok(answer) if answer == nonce => {}
                    Ok(_) => tally.wrong += 1,
                    Err(_) => tally.innocent_hit += 1,
                }
            }
            tally
        })
    });
    let mut tally = Tally::default();
    for part in join_all(runners).await {
        let part = part?;
        tally.timed_out += part.timed_out;
        tally.finished += part.finished;
        tally.innocent_hit += part.innocent_hit;
        tally.wrong += part.wrong;
    }
    let stats = db.stats();
    let closed = stats.closed_for(CloseReason::Quarantine) + stats.closed_for(CloseReason::Broken);
    let quarantined = stats.cleaned + closed;
    let reused = if quarantined == 0 {
        1.0
    } else {
        stats.cleaned as f64 / quarantined as f64
    };
    findings.note(
        "race: timed out",
        format!("{} of {}", tally.timed_out, tally.timed_out + tally.finished),
    );
    findings.note("race: cancelled on the server", stats.cancelled);
    // A race that only one side ever wins has tested nothing.
    let both = tally.timed_out * 5 >= races && tally.finished * 5 >= races;
    findings.expect("race: both sides won at least 20 %", both, true, both);
    findings.expect(
        "race: innocent queries hit",
        tally.innocent_hit,
        0,
        tally.innocent_hit == 0,
    );
    findings.expect("race: wrong answers", tally.wrong, 0, tally.wrong == 0);
    findings.expect(
        "race: leases reused",
        format!("{:.2} %", reused * 100.0),
        ">= 99 %",
        reused >= 0.99,
    );
    db.close().await;
    Ok(())
}

/// The median duration of the racing query under the race's own load.
async fn usual(db: &Db) -> anyhow::Result<Duration> {
    let runners = (0..LEASES).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            for nonce in 0..40 {
                let since = Instant::now();
                number(&db, "SELECT $1::int8 FROM pg_sleep(0.003)", nonce).await?;
                took.push(since.elapsed());
                number(&db, "SELECT $1::int8", nonce).await?;
            }
            Ok::<_, Error>(took)
        })
    });
    let mut all = Vec::new();
    for part in join_all(runners).await {
        all.extend(part??);
    }
    all.sort_unstable();
    Ok(all[all.len() / 2])
}

async fn number(db: &Db, sql: &'static str, argument: i64) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(sql).bind(argument).fetch_one(db).await?)
}

async fn sleepers(server: &Postgres) -> anyhow::Result<i64> {
    let mut admin = server.admin().await?;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()",
    );
    Ok(count.fetch_one(&mut admin).await?)
}
