//! The server is gone for a while, under load that does not wait for answers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, Event, Observer, RetryStats};
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, APPLICATION},
};

const CLIENTS: u32 = 200;
/// Each client's calls start this far apart, answered or not.
const EVERY: Duration = Duration::from_millis(100);
/// What a call may take in all.
const PATIENCE: Duration = Duration::from_millis(500);
/// What each attempt waits for a connection, so that there is time for further ones.
const ACQUIRE: Duration = Duration::from_millis(100);
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(3);
/// Throughput is looked at in such steps.
const STEP: Duration = Duration::from_millis(100);
const PROMISED: Duration = Duration::from_secs(1);
/// Of the first act: calls in flight, each on a connection of its own, when the server goes.
const ALL: u32 = 200;
/// How long opening their connections may take.
const OPENED: Duration = Duration::from_secs(15);
/// How long two busy cores may take to tell all of them.
const NOTICED: Duration = Duration::from_millis(500);
/// Retries that start within one such window are together.
const TOGETHER: Duration = Duration::from_millis(5);
/// Of the calls that break together, at most this share may come back together. With pauses of 50 ms +-30 %
/// an even spread is 0.17.
const MOST_TOGETHER: f64 = 0.35;

/// When retries start.
#[derive(Default)]
struct Starts(Mutex<Vec<Instant>>);

impl Observer for Starts {
    fn event(&self, event: &Event) {
        // The first retry of each: later ones are spread by all that came before.
        if let Event::Retried { wait, attempt: 1, .. } = event {
            let starts = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner);
            starts.push(Instant::now() + *wait);
        }
    }
}

#[derive(Default)]
struct Tally {
    offered: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let outage = Duration::from_secs(if quick { 4 } else { 10 });
    let offered = u128::from(CLIENTS) * 1000 / EVERY.as_millis();
    println!(
        "{CLIENTS} clients, {offered} calls per second whatever happens, each for {PATIENCE:?} at most; no server for {outage:?}"
    );
    let server = rig::server().await?;
    let mut findings = Findings::new();
    all_at_once(&server, &mut findings).await?;
    under_load(&server, outage, &mut findings).await?;
    Ok(findings.verdict())
}

/// Every client loses its connection in the same moment: none may come back together.
async fn all_at_once(server: &Postgres, findings: &mut Findings) -> anyhow::Result<()> {
    let starts = Arc::new(Starts::default());
    let db = Db::builder()
        .url(&server.url())
        .max_connections(ALL)
        .observer(starts.clone())
        .configure(|config| {
            config.pool.connect_parallelism = 16;
            config.pool.min_connections = ALL;
            config.timeout.normal.timeout = OPENED * 2;
            config.retry.budget_floor = ALL;
            config.session.application_name = APPLICATION.to_owned();
        });
    let db = db.connect().await.context("Db does not connect")?;
    let opened = Instant::now() + OPENED;
    while db.stats().size < ALL {
        ensure!(Instant::now() < opened, "no {ALL} connections within {OPENED:?}");
        sleep(Duration::from_millis(20)).await;
    }
    let mut calls = JoinSet::new();
    for _ in 0..ALL {
        let db = db.idempotent();
        calls.spawn(async move { sqlx::query("SELECT pg_sleep(30)").execute(&db).await.is_ok() });
    }
    sleep(Duration::from_secs(1)).await;
    println!("  {} calls in flight", db.stats().in_use);
    // They lose their connections one after the other while the server dies.
    let gone = Instant::now();
    server.kill().await?;
    sleep(NOTICED).await;
    calls.shutdown().await;
    let (many, burst) = together(&starts, gone);
    println!("  {ALL} clients lose their connections at once: {many} start again");
    let enough = many as u32 >= ALL / 2;
    findings.expect(
        "clients that start again",
        many,
        format!("at least {}", ALL / 2),
        enough,
    );
    findings.expect(
        "largest share that starts within 5 ms",
        format!("{burst:.2}"),
        format!("at most {MOST_TOGETHER}"),
        burst <= MOST_TOGETHER,
    );
    db.close().await;
    server.start_again().await?;
    Ok(())
}

async fn under_load(server: &Postgres, outage: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let db = Db::builder()
        .url(&server.url())
        .max_connections(16)
        .configure(|config| {
            config.pool.acquire_timeout = ACQUIRE;
            config.pool.validation_timeout = ACQUIRE / 2;
            config.session.application_name = APPLICATION.to_owned();
        });
    let db = db.connect().await.context("Db does not connect")?;
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(call_on(db.clone(), client, tally.clone(), stopped.clone()));
    }
    sleep(Duration::from_secs(1)).await;
    let served = tally.served.load(Ordering::Relaxed);
    sleep(BEFORE).await;
    let before = (tally.served.load(Ordering::Relaxed) - served) as f64 / BEFORE.as_secs_f64();

    let healthy = db.retries();
    server.kill().await?;
    sleep(outage).await;
    let down = db.retries();
    let started = tally.served.load(Ordering::Relaxed);
    server.start_again().await?;
    let ready = Instant::now();
    let back = recovered(&tally, before, ready).await;
    stop.send_replace(true);
    while let Some(client) = clients.join_next().await {
        client.context("a client panicked")?;
    }
    let (attempts, calls) = attempts(&healthy, &down);
    let per_call = attempts as f64 / calls.max(1) as f64;
    println!(
        "  before: {before:.0} served per second; in the outage: {calls} calls, {attempts} attempts; after it {} served",
        tally.served.load(Ordering::Relaxed) - started
    );
    println!(
        "  offered {}, served {}, failed {}; retries {}",
        tally.offered.load(Ordering::Relaxed),
        tally.served.load(Ordering::Relaxed),
        tally.failed.load(Ordering::Relaxed),
        db.retries().retries()
    );
    findings.expect(
        "attempts per call",
        format!("{per_call:.3}"),
        "at most 1.1",
        per_call <= 1.1,
    );
    findings.expect(
        "95 % of throughput after",
        back.map_or("never".to_owned(), |back| format!("{} ms", back.as_millis())),
        format!("at most {} ms", PROMISED.as_millis()),
        back.is_some_and(|back| back <= PROMISED),
    );
    db.close().await;
    Ok(())
}

/// Calls at its own pace, in tasks of their own; waits for the last ones.
async fn call_on(db: Db, client: u32, tally: Arc<Tally>, mut stopped: watch::Receiver<bool>) {
    let db = db.timeout(PATIENCE);
    let mut ticks = interval_at(Instant::now() + EVERY * client / CLIENTS, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
        tally.offered.fetch_add(1, Ordering::Relaxed);
        let (db, tally) = (db.clone(), tally.clone());
        calls.spawn(async move {
            let answer = sqlx::query_scalar::<_, i64>("SELECT $1::int8")
                .bind(7_i64)
                .fetch_one(&db)
                .await;
            let counter = if answer.is_ok() { &tally.served } else { &tally.failed };
            counter.fetch_add(1, Ordering::Relaxed);
        });
        while calls.try_join_next().is_some() {}
    }
    let _ = timeout(PATIENCE * 4, calls.join_all()).await;
}

/// How long after the server's return 95 % of what was served before is served again, in the first step that does so.
async fn recovered(tally: &Tally, before: f64, ready: Instant) -> Option<Duration> {
    let wanted = before * 0.95 * STEP.as_secs_f64();
    let mut last = tally.served.load(Ordering::Relaxed);
    while ready.elapsed() < AFTER {
        sleep(STEP).await;
        let now = tally.served.load(Ordering::Relaxed);
        if (now - last) as f64 >= wanted {
            return Some(ready.elapsed());
        }
        last = now;
    }
    None
}

/// Attempts and calls that ended between two snapshots.
fn attempts(from: &RetryStats, to: &RetryStats) -> (u64, u64) {
    let ended = |stats: &RetryStats, each: fn(u64) -> u64| -> u64 {
        (1..)
            .zip(stats.attempts)
            .map(|(attempts, calls)| calls * each(attempts))
            .sum()
    };
    let between = |each| ended(to, each) - ended(from, each);
    (between(|attempts| attempts), between(|_| 1))
}

/// How many start again soon, and the share of them in the fullest window.
fn together(starts: &Starts, gone: Instant) -> (usize, f64) {
    let mut starts = starts.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    starts.retain(|start| *start >= gone);
    starts.sort_unstable();
    let window = |from: usize| {
        let together = |start: &&Instant| **start - starts[from] < TOGETHER;
        starts[from..].iter().take_while(together).count()
    };
    let most = (0..starts.len()).map(window).max().unwrap_or(0);
    (starts.len(), most as f64 / starts.len().max(1) as f64)
}
