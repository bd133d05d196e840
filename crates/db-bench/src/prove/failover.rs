//! The primary is killed under load, its replica is promoted, and the old primary comes back: writable at first, which is
//! a split brain, then read-only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, Error};
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{Verdict, findings::Findings};

const WRITERS: usize = 8;
const READERS: usize = 4;
const PROMISED: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

/// What one caller did: the writes that were acknowledged, with the moments at which they began and ended.
#[derive(Default)]
struct Log {
    acknowledged: Vec<(i64, Instant, Instant)>,
    reads: u64,
    errors: BTreeMap<String, u64>,
}

/// One failover.
#[derive(Default)]
struct Round {
    /// From the end of the promotion to the first write that was acknowledged by a caller that had begun after it.
    resumed: Duration,
    wrong_node: i64,
    lost: u64,
    /// Acknowledged by the old primary and not taken over: the price of asynchronous replication.
    not_taken_over: u64,
    writes: u64,
    reads: u64,
    errors: BTreeMap<String, u64>,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let rounds = if quick { 2 } else { 10 };
    println!("{rounds} failovers under {WRITERS} writers and {READERS} readers; the old primary comes back writable");
    let mut findings = Findings::new();
    let mut worst = Duration::ZERO;
    let mut sum = Round::default();
    for number in 1..=rounds {
        let round = fail_over().await?;
        println!(
            "  round {number}: writes resumed {} ms after the promotion; {} writes and {} reads, {} not taken over, errors {:?}",
            round.resumed.as_millis(),
            round.writes,
            round.reads,
            round.not_taken_over,
            round.errors
        );
        worst = worst.max(round.resumed);
        sum.wrong_node += round.wrong_node;
        sum.lost += round.lost;
        sum.not_taken_over += round.not_taken_over;
        sum.writes += round.writes;
        sum.reads += round.reads;
        for (error, times) in round.errors {
            *sum.errors.entry(error).or_default() += times;
        }
    }
    let promised = if quick { PROMISED * 3 } else { PROMISED };
    findings.expect(
        "writes resumed after the promotion, at worst",
        format!("{} ms", worst.as_millis()),
        format!("within {} ms", promised.as_millis()),
        worst <= promised,
    );
    findings.expect("writes to the wrong node", sum.wrong_node, "0", sum.wrong_node == 0);
    findings.expect(
        "acknowledged writes of the new timeline lost",
        sum.lost,
        "0",
        sum.lost == 0,
    );
    findings.note("acknowledged by the old primary, not taken over", sum.not_taken_over);
    findings.note("writes", sum.writes);
    findings.note("reads", sum.reads);
    let errors: u64 = sum.errors.values().sum();
    findings.note("errors", errors);
    for (error, times) in &sum.errors {
        println!("        {times:>6} {error}");
    }
    Ok(findings.verdict())
}

async fn fail_over() -> anyhow::Result<Round> {
    let old = Postgres::start().await.context("no throwaway PostgreSQL")?;
    let next = old.replica().await?;
    let db = Db::builder().url(&old.url()).max_connections(8).configure(|config| {
        config.replica.urls = next.url().as_str().into();
        config.pool.acquire_timeout = Duration::from_secs(2);
    });
    let db = db.connect().await.context("Db does not connect")?;
    sqlx::raw_sql("CREATE TABLE log (id int8 PRIMARY KEY)")
        .execute(&db)
        .await?;
    next.wait_caught_up(&old, SOON).await?;
    ensure!(db.nodes_ready(SOON).await, "the nodes do not answer");

    let (stop, stopped) = watch::channel(false);
    let ids = Arc::new(AtomicI64::new(1));
    let mut callers = JoinSet::new();
    for _ in 0..WRITERS {
        callers.spawn(write(db.clone(), ids.clone(), stopped.clone()));
    }
    for _ in 0..READERS {
        callers.spawn(read(db.clone(), stopped.clone()));
    }
    sleep(500 * MS).await;
    old.kill().await?;
    let killed = Instant::now();
    sleep(500 * MS).await;
    next.promote().await?;
    let promoted = Instant::now();
    sleep(1500 * MS).await;
    // Both take writes now.
    old.start_again().await?;
    sleep(1000 * MS).await;
    let mut admin = old.admin().await?;
    for sql in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(sql).execute(&mut admin).await?;
    }
    sleep(500 * MS).await;
    stop.send_replace(true);

    let mut round = Round::default();
    let mut acknowledged = Vec::new();
    while let Some(log) = callers.join_next().await {
        let log = log?;
        acknowledged.extend(log.acknowledged);
        round.reads += log.reads;
        for (error, times) in log.errors {
            *round.errors.entry(error).or_default() += times;
        }
    }
    db.close().await;
    round.writes = acknowledged.len() as u64;
    let first = acknowledged
        .iter()
        .filter(|(_, began, _)| *began >= killed)
        .map(|(.., ended)| *ended)
        .min();
    round.resumed = first.map_or(SOON, |first| first.saturating_duration_since(promoted));
    let kept: BTreeSet<i64> = ids_on(&next).await?;
    // An id that was drawn after the kill can only be on the old primary if it was sent there after its return.
    let last_before = acknowledged
        .iter()
        .filter(|(_, began, _)| *began < killed)
        .map(|(id, ..)| *id)
        .max();
    let drawn = last_before.unwrap_or_default() + WRITERS as i64;
    round.wrong_node = ids_on(&old).await?.iter().filter(|id| **id > drawn).count() as i64;
    for (id, began, _) in acknowledged {
        if !kept.contains(&id) {
            match began < killed {
                true => round.not_taken_over += 1,
                false => round.lost += 1,
            }
        }
    }
    Ok(round)
}

async fn ids_on(server: &Postgres) -> anyhow::Result<BTreeSet<i64>> {
    let mut admin = server.admin().await?;
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM log").fetch_all(&mut admin).await?;
    Ok(ids.into_iter().collect())
}

async fn write(db: Db, ids: Arc<AtomicI64>, stopped: watch::Receiver<bool>) -> Log {
    let mut log = Log::default();
    while !*stopped.borrow() {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        match sqlx::query("INSERT INTO log VALUES ($1)").bind(id).execute(&db).await {
            Ok(_) => log.acknowledged.push((id, began, Instant::now())),
            Err(error) => {
                log.note(error);
                // A caller that is refused at once must not take the processor from the server that starts.
                sleep(5 * MS).await;
            }
        }
        sleep(2 * MS).await;
    }
    log
}

async fn read(db: Db, stopped: watch::Receiver<bool>) -> Log {
    let mut log = Log::default();
    while !*stopped.borrow() {
        match sqlx::query_scalar::<_, i64>("SELECT count(*) FROM log WHERE id = 1")
            .fetch_one(&db)
            .await
        {
            Ok(_) => log.reads += 1,
            Err(error) => log.note(error),
        }
        sleep(5 * MS).await;
    }
    log
}

impl Log {
    fn note(&mut self, error: sqlx::Error) {
        let kind = match Error::from(error) {
            Error::Server(server) => format!("server {}", server.state()),
            Error::Acquire(acquire) => format!("no connection: {:?}", acquire.failure),
            Error::Network { sent, .. } => format!("connection lost, sent {sent:?}"),
            Error::Timeout(_) => "timeout".to_owned(),
            other => other.to_string(),
        };
        *self.errors.entry(kind).or_default() += 1;
    }
}
