//! Leases that do not come back: named with their cause, taken back, and nothing else called a leak.

mod cost;
mod mixed;

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, Event, Events, Lease, LeaseCause, Mode, Suspect, Tx};
use futures::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
};

const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(20),
};
const THRESHOLD: Duration = Duration::from_millis(500);
const RECLAIM: Duration = Duration::from_millis(2_500);
/// How much later than its limit anything may be noticed or done.
const MARGIN: Duration = Duration::from_secs(1);

/// What is done to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Leak {
    Forgotten,
    Parked,
    StuckTask,
    OpenTransaction,
}

const LEAKS: [(Leak, LeaseCause); 4] = [
    (Leak::Forgotten, LeaseCause::Unused),
    (Leak::Parked, LeaseCause::Unused),
    (Leak::StuckTask, LeaseCause::Unused),
    (Leak::OpenTransaction, LeaseCause::IdleInTransaction),
];

static PARKED: Mutex<Vec<Lease>> = Mutex::new(Vec::new());

/// What must be kept so that a leak stays one, and the line that asked for the lease.
struct Kept {
    leak: Leak,
    line: u32,
    since: Instant,
    task: Option<JoinHandle<()>>,
    transaction: Option<Tx>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mut findings = Findings::new();
    let rounds = if quick { 1 } else { 5 };
    println!(
        "{} leaks of four kinds in a pool of {}, {rounds} x; suspect after {THRESHOLD:?}, taken back after {RECLAIM:?}",
        LEAKS.len(),
        LIMITS.max
    );
    let server = rig::server().await?;
    let mut worst: HashMap<Leak, Duration> = HashMap::new();
    let mut back = Duration::ZERO;
    for _ in 0..rounds {
        let db = db(&server.url()).await?;
        let mut events = db.events();
        let started = Instant::now();
        let mut kept = Vec::new();
        for (leak, _) in LEAKS {
            kept.push(leak_one(&db, leak).await?);
        }
        for (kept, late) in name_all(&mut events, &kept).await? {
            let worst = worst.entry(kept).or_default();
            *worst = late.max(*worst);
        }
        // Full again when as many leases can be had as there are places, while the leaked ones are still held.
        let all = (0..LIMITS.max).map(|_| db.acquire());
        let all = timeout(RECLAIM + 10 * MARGIN, join_all(all)).await;
        let all = all.context("the pool does not come back")?;
        ensure!(all.iter().all(Result::is_ok), "a lease could not be had: {all:?}");
        back = back.max(started.elapsed());
        drop(all);
        // Late use harms nobody: each of them is an error, and the pool's accounts stay right.
        for mut late in kept {
            if let Some(mut tx) = late.transaction.take() {
                let used = sqlx::query("SELECT 1").execute(&mut *tx).await;
                ensure!(used.is_err(), "a transaction that was taken back still works");
            }
        }
        for mut lease in PARKED.lock().expect("not poisoned").drain(..) {
            ensure!(lease.revoked().is_some(), "the parked lease does not know");
            lease.close_on_drop();
        }
        ensure!(db.stats().size <= LIMITS.max, "{:?}", db.stats());
        db.close().await;
    }
    for (leak, _) in LEAKS {
        let late = worst.get(&leak).copied().context("never named")?;
        let limit = THRESHOLD + MARGIN;
        findings.expect(
            &format!("{leak:?} named after"),
            format!("{late:.2?}"),
            format!("<= {limit:?}, with its line and cause"),
            late <= limit,
        );
    }
    let limit = RECLAIM + MARGIN;
    findings.expect(
        "pool full again after",
        format!("{back:.2?}"),
        format!("<= {limit:?}"),
        back <= limit,
    );
    mixed::run(&server.url(), quick, &mut findings).await?;
    cost::run(&server.url(), quick, &mut findings).await?;
    Ok(findings.verdict())
}

async fn db(url: &str) -> anyhow::Result<Db> {
    let db = Db::builder().url(url).max_connections(LIMITS.max).configure(|config| {
        config.pool.acquire_timeout = LIMITS.acquire;
        config.pool.drain_timeout = Duration::from_millis(200);
        config.session.application_name = rig::APPLICATION.to_owned();
        config.leak.mode = Mode::Enforce;
        config.leak.threshold = THRESHOLD;
        config.leak.reclaim_after = RECLAIM;
        // Here one task asks for everything on purpose.
        config.leak.nested = Mode::Off;
    });
    db.connect().await.context("Db does not connect")
}

async fn leak_one(db: &Db, leak: Leak) -> anyhow::Result<Kept> {
    let mut kept = Kept {
        leak,
        line: 0,
        since: Instant::now(),
        task: None,
        transaction: None,
    };
    match leak {
        Leak::Forgotten => {
            kept.line = line!() + 1;
            let lease = db.acquire().await?;
            std::mem::forget(lease);
        }
        Leak::Parked => {
            kept.line = line!() + 1;
            let lease = db.acquire().await?;
            PARKED.lock().expect("not poisoned").push(lease);
        }
        Leak::StuckTask => {
            kept.line = line!() + 1;
            let lease = db.acquire().await?;
            kept.task = Some(tokio::spawn(async move {
                let _held = lease;
                // A loop that never ends and never uses what it holds.
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(1)) => {}
                        () = pending() => {}
                    }
                }
            }));
        }
        Leak::OpenTransaction => {
            kept.line = line!() + 1;
            let mut tx = db.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock(42)")
                .execute(&mut *tx)
                .await?;
            kept.transaction = Some(tx);
        }
    }
    kept.since = Instant::now();
    Ok(kept)
}

/// How long after its checkout each leak was named, with the right line and cause.
async fn name_all(events: &mut Events, kept: &[Kept]) -> anyhow::Result<HashMap<Leak, Duration>> {
    let mut named = HashMap::new();
    while named.len() < kept.len() {
        let suspect = timeout(THRESHOLD + 10 * MARGIN, next_suspect(events)).await;
        let suspect = suspect.context("a leak was never named")??;
        let line = suspect.site.context("a suspect without a site")?.line();
        let found = kept.iter().find(|kept| kept.line == line);
        let found = found.with_context(|| format!("no leak of ours: {suspect}"))?;
        let (_, cause) = LEAKS.iter().find(|(leak, _)| *leak == found.leak).context("known")?;
        ensure!(suspect.cause == *cause, "{:?} is called {suspect}", found.leak);
        ensure!(
            named.insert(found.leak, found.since.elapsed()).is_none(),
            "told twice: {suspect}"
        );
    }
    Ok(named)
}

async fn next_suspect(events: &mut Events) -> anyhow::Result<Arc<Suspect>> {
    loop {
        match events.next().await.context("the events ended")? {
            Event::LeaseSuspect(suspect) => return Ok(suspect),
            _ => continue,
        }
    }
}
