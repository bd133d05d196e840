//! Many callers, one answer; and a database that no longer answers.

use std::time::Duration;

use alloc_counter::count_alloc_future;
use anyhow::{Context, ensure};
use db_core::StatementFacts;
use db_stack::{Db, Freshness, QueryClass};
use db_testkit::Postgres;
use hdrhistogram::Histogram;
use sqlx::Executor;
use tokio::time::{Instant, sleep, timeout};

use crate::prove::{Verdict, findings::Findings, rig};

const CALLERS: usize = 1_000;
const TTL: Duration = Duration::from_secs(600);
/// Some 50 ms of work, so that everybody is there before it ends.
const SLOW: &str = "SELECT count(*) FROM stock, generate_series(1, 4000) AS g WHERE g > 0";
const LATER: &str = "SELECT count(*) + 1 FROM stock, generate_series(1, 40000) AS g WHERE g > 0";
const KEPT: &str = "SELECT n FROM stock WHERE id = $1";
/// How long an answer of the frozen part is fresh.
const SHORT: Duration = Duration::from_millis(50);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let (rounds, reads) = if quick { (3, 2_000) } else { (50, 50_000) };
    let server = rig::server().await?;
    let db = Db::connect(&server.url()).await?;
    db.execute("CREATE TABLE stock (id int8 PRIMARY KEY, n int8); INSERT INTO stock SELECT i, i FROM generate_series(1, 100) AS i")
        .await?;
    ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
    let mut findings = Findings::new();
    hits(&db, quick, &mut findings).await?;
    let patient = db.class(QueryClass::Batch);
    stampede(&patient, rounds, &mut findings).await?;
    cancelled(&patient, &mut findings).await?;
    frozen(&server, &db, reads, &mut findings).await?;
    Ok(findings.verdict())
}

/// How often a statement went down the stack.
fn queries(db: &Db, sql: &str) -> u64 {
    let fingerprint = StatementFacts::of(sql).fingerprint();
    db.timeouts()
        .statement(fingerprint)
        .map_or(0, |stats| stats.counts.calls())
}

/// What a hit costs, key and look-up with the decode saved, on one thread; its time is gated in full runs only.
async fn hits(db: &Db, quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let (batches, calls) = if quick { (5, 20_000_u32) } else { (15, 200_000) };
    let kept = db.cached(TTL);
    let (mut best, mut allocations) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..batches {
        let since = std::time::Instant::now();
        let batch = async {
            for _ in 0..calls {
                kept.fetch_one(sqlx::query_scalar::<_, i64>(KEPT).bind(7_i64)).await?;
            }
            Ok::<_, db_stack::Error>(())
        };
        let ((fresh, grown, _), done) = count_alloc_future(Box::pin(batch)).await;
        done?;
        best = best.min(since.elapsed().as_nanos() as f64 / f64::from(calls));
        allocations = allocations.min((fresh + grown) as f64 / f64::from(calls));
    }
    let time = format!("{best:.0} ns");
    let rate = format!("{:.0} k/s", 1e6 / best);
    if quick {
        findings.note("a hit", time);
        findings.note("hits on one core", rate);
    } else {
        findings.expect("a hit", time, "< 1000 ns", best < 1000.0);
        findings.expect("hits on one core", rate, ">= 500 k/s", best <= 2000.0);
    }
    // Those of the query itself, which its caller makes before anybody looks: two, and one that grows.
    findings.expect(
        "allocations of a hit, the query's own included",
        format!("{allocations:.2}"),
        "<= 3",
        allocations <= 3.05,
    );
    Ok(())
}

async fn stampede(db: &Db, rounds: u32, findings: &mut Findings) -> anyhow::Result<()> {
    let (mut most, mut answered) = (0, 0);
    for _ in 0..rounds {
        let before = queries(db, SLOW);
        let asked: Vec<_> = (0..CALLERS)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move { db.cached(TTL).fetch_one(sqlx::query_scalar::<_, i64>(SLOW)).await })
            })
            .collect();
        for caller in asked {
            answered += usize::from(*caller.await??.as_ref() == 400_000);
        }
        most = most.max(queries(db, SLOW) - before);
        db.cache().invalidate_all();
    }
    let callers = CALLERS * usize::try_from(rounds)?;
    findings.expect("queries for 1,000 callers of a cold key", most, 1, most == 1);
    findings.expect("callers answered", answered, callers, answered == callers);
    Ok(())
}

/// The caller who reads gives up; everybody else is answered all the same.
async fn cancelled(db: &Db, findings: &mut Findings) -> anyhow::Result<()> {
    let ask = || {
        let db = db.clone();
        tokio::spawn(async move { db.cached(TTL).fetch_one(sqlx::query_scalar::<_, i64>(LATER)).await })
    };
    let before = queries(db, LATER);
    let leader = ask();
    sleep(Duration::from_millis(20)).await;
    let waiting: Vec<_> = (0..100).map(|_| ask()).collect();
    sleep(Duration::from_millis(20)).await;
    leader.abort();
    let mut answered = 0;
    for caller in waiting {
        answered += usize::from(caller.await?.is_ok());
    }
    let made = queries(db, LATER) - before;
    findings.expect("answered after their reader gave up", answered, 100, answered == 100);
    findings.expect("queries for them, with the one given up", made, "<= 2", made <= 2);
    Ok(())
}

async fn frozen(server: &Postgres, db: &Db, reads: u32, findings: &mut Findings) -> anyhow::Result<()> {
    let kept = db
        .timeout(Duration::from_secs(3))
        .cached(SHORT)
        .stale_if_error(Duration::from_secs(3600));
    let ask = |id: i64| sqlx::query_scalar::<_, i64>(KEPT).bind(id);
    for id in 1..=50 {
        kept.fetch_one(ask(id)).await?;
    }
    sleep(SHORT * 2).await;
    server.freeze().await?;
    let since = Instant::now();
    // Those who ask before anybody knows wait for that, not for their own limit.
    let first = kept.answer_one(ask(1)).await?;
    findings.note("known after", format!("{:.1} s", since.elapsed().as_secs_f64()));
    ensure!(
        first.freshness() == Freshness::StaleIfError,
        "answered {:?}",
        first.freshness()
    );
    let mut times = Histogram::<u64>::new_with_max(60_000_000_000, 3)?;
    let mut right = 0_u32;
    for number in 0..reads {
        let id = i64::from(number % 50) + 1;
        let asked = Instant::now();
        let answer = kept.answer_one(ask(id)).await?;
        times.saturating_record(u64::try_from(asked.elapsed().as_nanos())?);
        right += u32::from(*answer == id && answer.age() >= SHORT);
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let other = timeout(Duration::from_secs(20), kept.fetch_one(ask(99))).await;
    let honest = matches!(&other, Ok(Err(error)) if db_cache::is_outage(error));
    let micros = |q| times.value_at_quantile(q) as f64 / 1000.0;
    findings.expect("old answers while the database is frozen", right, reads, right == reads);
    findings.note("time of an old answer, p50", format!("{:.1} us", micros(0.5)));
    findings.expect(
        "time of an old answer, p99",
        format!("{:.1} us", micros(0.99)),
        "<= 1 ms",
        micros(0.99) <= 1000.0,
    );
    let said = match other {
        Ok(Ok(_)) => "an answer".to_owned(),
        Ok(Err(error)) => error.to_string().chars().take(60).collect(),
        Err(_) => "nothing".to_owned(),
    };
    findings.expect("a key without an old answer gets", said, "an honest error", honest);
    server.thaw().await?;
    let back = timeout(Duration::from_secs(20), async {
        loop {
            if let Ok(answer) = kept.answer_one(ask(2)).await
                && answer.freshness() == Freshness::Read
            {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    back.await.context("no fresh answer after the server had thawed")?;
    findings.expect("fresh answers once it is back", "yes", "yes", true);
    Ok(())
}
