//! Replicas go, or become slow: reads go on, and the primary does not feel it.

mod model;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use db_stack::Db;
use db_testkit::{Direction, FaultProxy, Postgres};
use parking_lot::Mutex;
use sqlx::AssertSqlSafe;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::prove::{Verdict, findings::Findings};

const SOON: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);
/// What the loss of replicas may do to the 99th percentile.
const PROMISED: f64 = 1.5;
/// A quick run on a shared machine tells a collapse only.
const COLLAPSE: f64 = 6.0;

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mut findings = Findings::new();
    let plan = match quick {
        true => Plan {
            span: Duration::from_secs(2),
            rounds: 1,
            ratio: COLLAPSE,
        },
        false => Plan {
            span: Duration::from_secs(8),
            rounds: 5,
            ratio: PROMISED,
        },
    };
    model::capacity(&mut findings, quick).await?;
    one_slow(&mut findings, plan).await?;
    all_gone(&mut findings, plan).await?;
    Ok(findings.verdict())
}

/// Both states in turns, so that they see the same machine: what is promised is the middle one of the ratios.
#[derive(Clone, Copy)]
struct Plan {
    span: Duration,
    rounds: u32,
    ratio: f64,
}

/// 99th percentiles before and after, in milliseconds.
fn ratio_of(findings: &mut Findings, what: &str, pairs: &[(f64, f64)], most: f64) {
    let mut sorted: Vec<_> = pairs
        .iter()
        .map(|(before, after)| (after / before, *before, *after))
        .collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, before, after) = sorted[sorted.len() / 2];
    findings.expect(
        what,
        format!("{ratio:.2} ({before:.1} to {after:.1} ms)"),
        format!("at most {most}"),
        before > 0.0 && ratio <= most,
    );
    if sorted.len() > 1 {
        let all: Vec<_> = sorted.iter().map(|(ratio, ..)| format!("{ratio:.2}")).collect();
        findings.note(&format!("{what}, all rounds"), all.join(" "));
    }
}

/// Latencies in microseconds, and errors.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<(Vec<u64>, u64)>>);

impl Times {
    fn put<T>(&self, since: Instant, out: &sqlx::Result<T>) {
        let mut times = self.0.lock();
        match out {
            Ok(_) => times.0.push(since.elapsed().as_micros() as u64),
            Err(_) => times.1 += 1,
        }
    }

    /// Count, errors and 99th percentile since the last time.
    fn take(&self) -> (usize, u64, f64) {
        let (mut times, errors) = std::mem::take(&mut *self.0.lock());
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        (times.len(), errors, p99 as f64 / 1000.0)
    }
}

/// Calls at a steady pace, whether the ones before have ended or not.
struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    reads: Times,
    writes: Times,
}

impl Load {
    fn start(db: &Db, readers: u64, writers: u64, pace: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self {
            stop,
            tasks: JoinSet::new(),
            reads: Times::default(),
            writes: Times::default(),
        };
        for number in 0..readers + writers {
            let (db, stopped) = (db.clone(), stopped.clone());
            let write = number >= readers;
            let times = if write { load.writes.clone() } else { load.reads.clone() };
            load.tasks.spawn(async move {
                sleep(pace.mul_f64(fastrand::f64())).await;
                let mut ticks = interval(pace);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while !*stopped.borrow() {
                    ticks.tick().await;
                    let since = Instant::now();
                    let id = fastrand::i64(0..64);
                    let out = if write {
                        let update = sqlx::query("UPDATE item SET n = n + 1 WHERE id = $1").bind(id);
                        update.execute(&db).await.map(drop)
                    } else {
                        let select = sqlx::query("SELECT n FROM item WHERE id = $1").bind(id);
                        select.fetch_one(&db).await.map(drop)
                    };
                    times.put(since, &out);
                }
            });
        }
        load
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A primary and two replicas, with a table of 64 rows.
async fn servers() -> anyhow::Result<(Postgres, [Postgres; 2])> {
    let primary = Postgres::start().await.context("no throwaway PostgreSQL")?;
    let mut admin = primary.admin().await?;
    let create =
        "CREATE TABLE item (id int8 PRIMARY KEY, n int8); INSERT INTO item SELECT g, 0 FROM generate_series(0, 63) g";
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await?;
    let replicas = [primary.replica().await?, primary.replica().await?];
    for replica in &replicas {
        replica.wait_caught_up(&primary, SOON).await?;
    }
    Ok((primary, replicas))
}

async fn connect(primary: &str, replicas: &str) -> anyhow::Result<Db> {
    let db = Db::builder().url(primary).max_connections(10).configure(|config| {
        config.replica.urls = replicas.into();
    });
    let db = db.connect().await.context("Db does not connect")?;
    ensure!(db.nodes_ready(SOON).await, "the nodes do not answer");
    Ok(db)
}

/// One of two replicas becomes ten times slower, and is as before again.
async fn one_slow(findings: &mut Findings, plan: Plan) -> anyhow::Result<()> {
    const WIRE: Duration = Duration::from_millis(4);
    const SHARE: f64 = 5.0;
    let (primary, replicas) = servers().await?;
    let proxies = [
        FaultProxy::start(replicas[0].addr()).await?,
        FaultProxy::start(replicas[1].addr()).await?,
    ];
    for proxy in &proxies {
        proxy.delay(Direction::ToClient, WIRE);
    }
    let urls = proxies.each_ref().map(|proxy| proxy.through(&primary.url()));
    let db = connect(&primary.url(), &urls.join(",")).await?;
    let load = Load::start(&db, 16, 0, 20 * MS);
    let (mut pairs, mut worst) = (Vec::new(), 0.0_f64);
    for _ in 0..plan.rounds {
        ensure!(
            in_use(&db, 2).await,
            "a replica gets no reads though it is fast: {:?}",
            reads_by_node(&db)
        );
        load.reads.take();
        sleep(plan.span).await;
        let (healthy_reads, _, healthy) = load.reads.take();
        proxies[1].delay(Direction::ToClient, WIRE * 10);
        // The promise is about what happens from then on.
        sleep(Duration::from_secs(2)).await;
        let (_, _, meanwhile) = load.reads.take();
        let before = reads_by_node(&db);
        sleep(plan.span).await;
        let (reads, errors, slowed) = load.reads.take();
        let after = reads_by_node(&db);
        proxies[1].delay(Direction::ToClient, WIRE);
        let slow = after[2] - before[2];
        let share = slow as f64 * 100.0 / (after.iter().sum::<u64>() - before.iter().sum::<u64>()).max(1) as f64;
        println!(
            "one of two replicas becomes 10 times slower: {healthy_reads} reads before, {reads} after, of which {slow} on \
             it, {errors} errors; p99 {healthy:.1}, then {meanwhile:.1} for two seconds, then {slowed:.1} ms"
        );
        worst = worst.max(share);
        pairs.push((healthy, slowed));
    }
    let back = in_use(&db, 2).await;
    load.stop().await;
    findings.expect(
        "share of the slow replica after 2 s",
        format!("{worst:.1} %"),
        format!("below {SHARE} %"),
        worst < SHARE,
    );
    ratio_of(findings, "p99 of reads, times the healthy one", &pairs, plan.ratio);
    findings.expect("it gets reads again once it is fast", back, "true", back);
    db.close().await;
    Ok(())
}

/// Whether node `number` gets a tenth of the reads, within some time.
async fn in_use(db: &Db, number: usize) -> bool {
    let until = Instant::now() + SOON;
    while Instant::now() < until {
        let before = reads_by_node(db);
        sleep(Duration::from_secs(1)).await;
        let after = reads_by_node(db);
        let all = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        if (after[number] - before[number]) * 10 > all.max(1) {
            return true;
        }
    }
    false
}

fn reads_by_node(db: &Db) -> Vec<u64> {
    db.replicas().cluster.nodes.iter().map(|node| node.reads).collect()
}

/// Both replicas are killed, and come back.
async fn all_gone(findings: &mut Findings, plan: Plan) -> anyhow::Result<()> {
    let (primary, replicas) = servers().await?;
    let urls = replicas.each_ref().map(Postgres::url);
    let db = connect(&primary.url(), &urls.join(",")).await?;
    let load = Load::start(&db, 16, 8, 20 * MS);
    let (mut pairs, mut served, mut lost, mut failed) = (Vec::new(), 0, 0, 0);
    for round in 0..plan.rounds {
        if round > 0 {
            for replica in &replicas {
                replica.start_again().await?;
            }
        }
        for node in [1, 2] {
            ensure!(in_use(&db, node).await, "a replica that is back gets no reads");
        }
        load.writes.take();
        load.reads.take();
        sleep(plan.span).await;
        let (writes_before, _, before) = load.writes.take();
        let (reads_before, ..) = load.reads.take();
        for replica in &replicas {
            replica.kill().await?;
        }
        sleep(plan.span).await;
        let (writes, write_errors, after) = load.writes.take();
        let (reads, read_errors, _) = load.reads.take();
        println!(
            "both replicas killed: {writes_before} writes and {reads_before} reads before, {writes} and {reads} after; \
             {write_errors} and {read_errors} errors"
        );
        pairs.push((before, after));
        served += reads;
        lost += read_errors;
        failed += write_errors;
    }
    let stats = db.replicas();
    load.stop().await;
    let share = served as f64 / (served as f64 + lost as f64).max(1.0);
    findings.expect(
        "reads served with no replica left",
        format!("{:.2} %", share * 100.0),
        "at least 99 %",
        share >= 0.99 && stats.fallbacks > 0,
    );
    findings.note(
        "of them on the primary, refused",
        format!("{}, {}", stats.fallbacks, stats.refused),
    );
    findings.expect("failed writes", failed, "0", failed == 0);
    ratio_of(findings, "p99 of writes, times that with replicas", &pairs, plan.ratio);
    db.close().await;
    Ok(())
}
