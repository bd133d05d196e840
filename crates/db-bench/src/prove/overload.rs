//! Open-loop overload: what is served in time at up to ten times the capacity, and how soon a spike is forgotten.

mod chart;

use std::time::Duration;

use db_stack::Db;
use db_testkit::FaultProxy;
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::prove::{
    Verdict,
    arrivals::{Outcome, arrive, goodput, quantile},
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(5),
};
/// A query that holds its connection for 10 ms and costs no processor.
const QUERY: &str = "SELECT $1::int8 FROM pg_sleep(0.01)";
const PATIENCE: Duration = Duration::from_millis(100);
const LOADS: [f64; 5] = [0.5, 1.0, 2.0, 5.0, 10.0];
const WARM_UP: Duration = Duration::from_millis(300);
const SPIKE: Duration = Duration::from_secs(3);
/// Over so long a spike's aftermath is judged at a time.
const WINDOW: Duration = Duration::from_millis(100);

/// A pool under load: one call with a deadline.
trait Loaded: Subject {
    const NAME: &'static str;

    fn call(&self, deadline: Instant) -> impl Future<Output = bool> + Send + 'static;
}

impl Loaded for Db {
    const NAME: &'static str = "Db";

    fn call(&self, deadline: Instant) -> impl Future<Output = bool> + Send + 'static {
        let db = self.deadline(deadline);
        async move { matches!(timeout_at(deadline, db.number(QUERY, 1)).await, Ok(Ok(_))) }
    }
}

impl Loaded for PgPool {
    const NAME: &'static str = "PgPool";

    fn call(&self, deadline: Instant) -> impl Future<Output = bool> + Send + 'static {
        let pool = self.clone();
        async move { matches!(timeout_at(deadline, pool.number(QUERY, 1)).await, Ok(Ok(_))) }
    }
}

/// What one pool did.
struct Course {
    name: &'static str,
    /// Served in time per second, at each of [`LOADS`].
    goodputs: Vec<f64>,
    offered: Vec<f64>,
    p99: Vec<Duration>,
    /// Connections that were opened while it ran.
    opened: u64,
    /// From the end of the spike until it was as before; nothing when it never was.
    recovered: Option<Duration>,
}

impl Course {
    fn peak(&self) -> f64 {
        self.goodputs.iter().copied().fold(0.0, f64::max)
    }

    /// The worst share of what could have been served.
    fn worst(&self) -> f64 {
        let peak = self.peak();
        let shares = self.goodputs.iter().zip(&self.offered);
        shares
            .map(|(goodput, offered)| goodput / offered.min(peak))
            .fold(1.0, f64::min)
    }
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let span = Duration::from_millis(if quick { 1200 } else { 8000 });
    println!(
        "{} connections, queries of 10 ms, deadlines of {PATIENCE:?}, {span:?} at each load, then {SPIKE:?} at 5 times",
        LIMITS.max
    );
    let server = rig::server().await?;
    let db = {
        let proxy = FaultProxy::start(server.addr()).await?;
        let db = rig::db(&proxy.url_for(&server), LIMITS).await?;
        let course = drive(&db, &proxy, span, None).await?;
        db.close().await;
        course
    };
    let pool = {
        let proxy = FaultProxy::start(server.addr()).await?;
        let pool = rig::pool(&proxy.url_for(&server), LIMITS).await?;
        let course = drive(&pool, &proxy, span, Some(db.0)).await?;
        // Closing waits for each connection that was abandoned on its way.
        let _ = timeout(Duration::from_secs(5), pool.close()).await;
        course
    };
    let (capacity, db, pool) = (db.0, db.1, pool.1);
    table(capacity, &db, &pool);
    if !quick {
        let path = chart::draw(&[(db.name, &db.goodputs), (pool.name, &pool.goodputs)], &LOADS)?;
        println!("  drawn: {path}");
    }
    let mut findings = Findings::new();
    let promised = if quick { 0.8 } else { 0.95 };
    findings.expect(
        "worst goodput, share of peak",
        format!("{:.3}", db.worst()),
        format!("at least 0.95, asked {promised}"),
        db.worst() >= promised,
    );
    findings.expect("connections opened by overload", db.opened, "0", db.opened == 0);
    let soon = Duration::from_secs(if quick { 2 } else { 1 });
    findings.expect(
        "back to baseline after a spike",
        said(db.recovered),
        format!("under 1 s, asked {soon:?}"),
        db.recovered.is_some_and(|took| took < soon),
    );
    findings.note("PgPool worst goodput, share of peak", format!("{:.3}", pool.worst()));
    findings.note("PgPool connections opened", pool.opened);
    findings.note("PgPool back to baseline", said(pool.recovered));
    Ok(findings.verdict())
}

fn said(took: Option<Duration>) -> String {
    took.map_or_else(|| "never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()))
}

/// All loads, then the spike. The capacity is measured unless it is given.
async fn drive<L: Loaded>(
    subject: &L,
    proxy: &FaultProxy,
    span: Duration,
    capacity: Option<f64>,
) -> anyhow::Result<(f64, Course)> {
    let measured = closed(subject, Duration::from_millis(1500)).await;
    let capacity = capacity.unwrap_or(measured);
    let before = proxy.counters().accepted;
    let mut course = Course {
        name: L::NAME,
        goodputs: Vec::new(),
        offered: Vec::new(),
        p99: Vec::new(),
        opened: 0,
        recovered: None,
    };
    for (seed, load) in (1..).zip(LOADS) {
        let rate = capacity * load;
        let outcomes = arrive(WARM_UP + span, seed, |_| rate, |due| subject.call(due + PATIENCE)).await;
        course.goodputs.push(goodput(&outcomes, WARM_UP, WARM_UP + span));
        course.offered.push(offered(&outcomes, WARM_UP, WARM_UP + span));
        course.p99.push(quantile(&outcomes, 0.99));
        sleep(PATIENCE).await;
    }
    course.recovered = spike(subject, capacity).await;
    course.opened = proxy.counters().accepted - before;
    Ok((capacity, course))
}

/// Calls per second of twice as many callers as connections, none of whom gives up.
async fn closed<L: Loaded>(subject: &L, span: Duration) -> f64 {
    let end = Instant::now() + span;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..2 * LIMITS.max {
        let subject = subject.clone();
        callers.spawn(async move {
            let mut served = 0_u32;
            while Instant::now() < end {
                served += u32::from(subject.number(QUERY, 1).await.is_ok());
            }
            served
        });
    }
    f64::from(callers.join_all().await.into_iter().sum::<u32>()) / span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a count of calls")]
fn offered(outcomes: &[Outcome], from: Duration, to: Duration) -> f64 {
    let due = outcomes.iter().filter(|o| o.due >= from && o.due < to).count();
    due as f64 / (to - from).as_secs_f64()
}

/// Half of the capacity, five times it, half of it: from the end of the spike until all is as before.
async fn spike<L: Loaded>(subject: &L, capacity: f64) -> Option<Duration> {
    let calm = Duration::from_secs(2);
    let (begin, end) = (calm, calm + SPIKE);
    let rate = |at| capacity * if (begin..end).contains(&at) { 5.0 } else { 0.5 };
    let outcomes = arrive(end + calm, 99, rate, |due| subject.call(due + PATIENCE)).await;
    let before: Vec<_> = outcomes.iter().filter(|o| o.due < begin).copied().collect();
    let normal = 2 * quantile(&before, 0.9);
    let as_before = |window: u32| {
        let (from, to) = (end + WINDOW * window, end + WINDOW * (window + 1));
        let within: Vec<_> = outcomes
            .iter()
            .filter(|o| o.due >= from && o.due < to)
            .copied()
            .collect();
        let good = within.iter().filter(|o| o.good).count();
        good * 20 >= within.len() * 19 && quantile(&within, 0.5) <= normal
    };
    // One bad window of a noisy machine is not the spike's.
    (0..15)
        .find(|window| (*window..window + 5).filter(|w| as_before(*w)).count() >= 4 && as_before(*window))
        .map(|window| WINDOW * window)
}

fn table(capacity: f64, db: &Course, pool: &Course) {
    println!("  capacity {capacity:.0} per second\n");
    println!("  load    offered      Db/s   p99 ms    PgPool/s   p99 ms");
    for (i, load) in LOADS.iter().enumerate() {
        println!(
            "  {load:>4}x {:>10.0} {:>9.0} {:>8.1} {:>11.0} {:>8.1}",
            db.offered[i],
            db.goodputs[i],
            db.p99[i].as_secs_f64() * 1e3,
            pool.goodputs[i],
            pool.p99[i].as_secs_f64() * 1e3,
        );
    }
    println!(
        "  {} opened {} connections, {} opened {}\n",
        db.name, db.opened, pool.name, pool.opened
    );
}
