//! Priorities: what background traffic at ten times the capacity costs those who matter, and what it still gets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use db_stack::{Db, Priority};
use tokio::time::{Instant, sleep, timeout_at};

use crate::prove::{
    Verdict,
    arrivals::{Outcome, arrive, goodput, quantile},
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const LIMITS: Limits = Limits {
    max: 10,
    acquire: Duration::from_secs(5),
};
/// A query that holds its connection for 10 to 30 ms, 20 in the mean, and costs no processor.
const QUERY: &str = "SELECT $1::int8 FROM pg_sleep(0.01 + 0.02 * random())";
/// All of one length: leases come back in step, and who has missed them waits for a whole query. Shown, not gated: the
/// queries of a service are not of one length.
const EQUAL: &str = "SELECT $1::int8 FROM pg_sleep(0.02)";
/// The same with work for the processor in it: shown, not gated, since background that burns both cores slows anything.
const WORK: &str = "SELECT sum(n * $1::int8)::int8 FROM generate_series(1, 20000) AS n";
/// What 10 connections serve of queries of 20 ms, at most.
const CAPACITY: f64 = 500.0;
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let span = Duration::from_secs(if quick { 4 } else { 20 });
    println!(
        "{} connections, queries of 10 to 30 ms: critical at 20 % of the capacity, alone and beside background at 10 times it, {span:?} each",
        LIMITS.max
    );
    let server = rig::server().await?;
    let db = rig::db(&server.url(), LIMITS).await?;
    open_all(&db).await?;
    let mut findings = Findings::new();

    let rounds = if quick { 2 } else { 8 };
    let Seen {
        alone,
        beside,
        left,
        used,
    } = turns(&db, span, rounds, QUERY).await?;
    let (p99_alone, p99_beside) = (quantile(&alone, 0.99), quantile(&beside, 0.99));
    let ratio = p99_beside.as_secs_f64() / p99_alone.as_secs_f64().max(1e-9);
    let allowed = if quick { 2.0 } else { 1.5 };
    findings.note("critical p99 alone", format!("{p99_alone:.1?}"));
    findings.note("critical p99 beside background", format!("{p99_beside:.1?}"));
    findings.expect(
        "critical p99, times that without background",
        format!("{ratio:.2}"),
        format!("at most 1.5, asked {allowed}"),
        ratio <= allowed,
    );
    let refused = beside.iter().filter(|o| !o.good).count();
    findings.expect("critical calls not served", refused, "0", refused == 0);
    let rate = goodput(&left, Duration::ZERO, span / rounds) / f64::from(rounds);
    findings.expect(
        "background served per second",
        format!("{rate:.0}"),
        "more than 0",
        rate > 1.0,
    );
    let asked = if quick { 0.85 } else { 0.95 };
    findings.expect(
        "use of leases outside unlent floors and spares",
        format!("{used:.3}"),
        format!("over 0.95, asked {asked}"),
        used > asked,
    );
    if !quick {
        let equal = turns(&db, span / 2, rounds / 2, EQUAL).await?;
        let p99 = |outcomes: &[Outcome]| quantile(outcomes, 0.99).as_secs_f64();
        findings.note(
            "the same with queries of one length",
            format!("{:.2}", p99(&equal.beside) / p99(&equal.alone).max(1e-9)),
        );
    }
    cpu_bound(&db, span / 2, &mut findings).await?;
    let shed = db.stats().of(Priority::Critical).shed;
    findings.expect("critical calls shed", shed, "0", shed == 0);
    db.close().await;
    Ok(findings.verdict())
}

struct Seen {
    alone: Vec<Outcome>,
    beside: Vec<Outcome>,
    left: Vec<Outcome>,
    /// The share of the places outside unlent floors and spares that were in use.
    used: f64,
}

/// Critical calls alone and beside the flood in turns, so that both see the same machine; `span` for each in all.
async fn turns(db: &Db, span: Duration, rounds: u32, sql: &'static str) -> anyhow::Result<Seen> {
    let (mut alone, mut beside, mut left) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = 0.0;
    for round in 0..rounds {
        let part = span / rounds;
        alone.extend(critical(db, part, u64::from(round), sql).await);
        let crowd = tokio::spawn(background(db.clone(), part, sql, 10.0 * CAPACITY));
        // What came before the flood is not what it does.
        sleep(Duration::from_millis(300)).await;
        let stop = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch(db.clone(), stop.clone()));
        beside.extend(critical(db, part - Duration::from_millis(400), u64::from(round), sql).await);
        stop.store(true, Ordering::Relaxed);
        used += watch.await? / f64::from(rounds);
        left.extend(crowd.await?);
        sleep(Duration::from_millis(300)).await;
    }
    Ok(Seen {
        alone,
        beside,
        left,
        used,
    })
}

/// The pool at its full size: dialling is another proof's.
async fn open_all(db: &Db) -> anyhow::Result<()> {
    let mut leases = Vec::new();
    for _ in 0..LIMITS.max {
        leases.push(db.acquire().await?);
    }
    Ok(())
}

async fn critical(db: &Db, span: Duration, seed: u64, sql: &'static str) -> Vec<Outcome> {
    let db = db.critical();
    let call = |due: Instant| {
        let db = db.clone();
        async move { matches!(timeout_at(due + PATIENCE, db.number(sql, 1)).await, Ok(Ok(_))) }
    };
    arrive(span, seed, |_| 0.2 * CAPACITY, call).await
}

async fn background(db: Db, span: Duration, sql: &'static str, rate: f64) -> Vec<Outcome> {
    let db = db.background();
    let call = |due: Instant| {
        let db = db.clone();
        async move { matches!(timeout_at(due + PATIENCE, db.number(sql, 1)).await, Ok(Ok(_))) }
    };
    arrive(span, 7, |_| rate, call).await
}

/// The share of the places outside unlent floors and spares that were in use, over the time until `stop`.
async fn watch(db: Db, stop: Arc<AtomicBool>) -> f64 {
    let (mut used, mut there) = (0.0, 0.0);
    while !stop.load(Ordering::Relaxed) {
        let stats = db.stats();
        used += f64::from(stats.in_use);
        there += f64::from(stats.limit - stats.unlent_floors);
        sleep(Duration::from_millis(1)).await;
    }
    used / f64::max(there, 1.0)
}

async fn cpu_bound(db: &Db, span: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let alone = critical(db, span / 2, 3, WORK).await;
    let crowd = tokio::spawn(background(db.clone(), span / 2, WORK, 2000.0));
    let beside = critical(db, span / 2, 3, WORK).await;
    crowd.await?;
    findings.note(
        "CPU-bound: critical p99 alone",
        format!("{:.1?}", quantile(&alone, 0.99)),
    );
    findings.note(
        "CPU-bound: beside background",
        format!("{:.1?}", quantile(&beside, 0.99)),
    );
    Ok(())
}
