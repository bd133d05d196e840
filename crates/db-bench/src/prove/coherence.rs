//! Two processes read through their caches and write, psql writes beside them, listeners are cut off and frozen; then
//! every read is compared with what had been written before it began.
//!
//! Each cell counts its writes, so that a read says how many it has seen. All times are those of the system's monotonic
//! clock, which the processes share.

mod check;
mod child;
mod psql;

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use db_testkit::{Postgres, Redis};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{process::Command, task::JoinSet, time::sleep};

use crate::prove::{Verdict, causality::swing::Swing, coherence::check::Checked, findings::Findings, rig};

const PROCESSES: u32 = 2;
const TASKS: u32 = 8;
const TABLES: u32 = 8;
const CELLS: u32 = 8;
const SOON: Duration = Duration::from_secs(20);
/// Tells a child what to do.
const CHILD: &str = "DB_STACK_COHERENCE_CHILD";
/// A listening connection that does not prove alive for two of these is given up.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Beyond this a read of another writer's data would be wrong: two heartbeats, and what a loaded machine adds.
const BOUND: Duration = Duration::from_millis(1500);

/// What a child is told.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    url: String,
    /// With commas.
    replicas: String,
    /// The store that both share, if they do.
    redis: Option<String>,
    process: u32,
    seconds: u64,
    least: u64,
    log: PathBuf,
}

/// What somebody did: a write, or a read of how many writes there had been.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Act {
    pub(crate) cell: u32,
    /// After a write, what it made of the cell; for a read, what it saw.
    pub(crate) count: i64,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// What one process did.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Log {
    pub(crate) reads: Vec<Act>,
    pub(crate) writes: Vec<Act>,
    /// Writes of which nobody knows whether they took effect.
    pub(crate) unknown: u64,
    /// When its cache began to hear of other writers (again).
    pub(crate) listening_since: Vec<u64>,
    pub(crate) hits: u64,
    /// Answers that the other process had read.
    #[serde(default)]
    pub(crate) shared: u64,
    pub(crate) errors: u64,
    /// Reads for the cache that replicas answered, and that the primary did in their place.
    pub(crate) on_replicas: u64,
    pub(crate) in_place: u64,
}

/// Nanoseconds of a clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    if let Ok(order) = env::var(CHILD) {
        child::run(serde_json::from_str(&order)?).await?;
        return Ok(Findings::new().verdict());
    }
    let mut findings = Findings::new();
    play(&mut findings, quick, Scene::Plain).await?;
    findings.section("lagging-");
    play(&mut findings, quick, Scene::Lagging).await?;
    findings.section("shared-");
    if Redis::program().is_some() {
        play(&mut findings, quick, Scene::Shared).await?;
    } else {
        findings.skip("caches that share a store", "no redis-server");
    }
    Ok(findings.verdict())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Everything on one server.
    Plain,
    /// Two replicas that fill the caches as well and lag by up to three seconds.
    Lagging,
    /// The caches share a Redis, which is frozen and emptied now and then.
    Shared,
}

async fn play(findings: &mut Findings, quick: bool, scene: Scene) -> anyhow::Result<()> {
    let (seconds, least) = match (quick, scene) {
        (true, Scene::Plain) => (9, 0),
        (true, _) => (7, 0),
        (false, Scene::Plain) => (60, 120_000),
        (false, _) => (60, 0),
    };
    let lagging = scene == Scene::Lagging;
    let server = rig::server().await?;
    prepare(&server).await?;
    let (mut replicas, mut swing) = (String::new(), None);
    if lagging {
        let both = [server.replica().await?, server.replica().await?];
        for replica in &both {
            replica.wait_caught_up(&server, SOON).await?;
        }
        replicas = both.each_ref().map(Postgres::url).join(",");
        swing = Some(Swing::start(&server, both)?);
    }
    let mut redis = None;
    if scene == Scene::Shared {
        redis = Some(Redis::start().await?);
    }
    let folder = tempfile::tempdir()?;
    let mut children = JoinSet::new();
    let mut logs = Vec::new();
    for process in 0..PROCESSES {
        let log = folder.path().join(format!("{process}.json"));
        logs.push(log.clone());
        let url = server.url();
        let order = Order {
            url,
            replicas: replicas.clone(),
            redis: redis.as_ref().map(Redis::url),
            process,
            seconds,
            least,
            log,
        };
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["prove", "coherence"])
            .env(CHILD, serde_json::to_string(&order)?);
        let mut child = command.stdout(Stdio::null()).kill_on_drop(true).spawn()?;
        children.spawn(async move { child.wait().await });
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let psql = tokio::spawn(psql::write(server.url(), stopped.clone()));
    let troubled = tokio::spawn(trouble(redis, stopped.clone()));
    let cuts = cut(&server, stopped);
    let ended = async {
        while let Some(child) = children.join_next().await {
            ensure!(child??.success(), "a child process failed");
        }
        stop.send_replace(true);
        anyhow::Ok(())
    };
    let (ended, cuts) = tokio::join!(ended, cuts);
    ended?;
    let (cut_off, frozen) = cuts?;
    let beside = psql.await??;
    let troubles = troubled.await??;
    let mut all = Vec::new();
    for log in &logs {
        let text = tokio::fs::read(log).await?;
        all.push(serde_json::from_slice::<Log>(&text)?);
    }
    let lag = match swing {
        Some(swing) => Some(swing.stop().await?),
        None => None,
    };
    match (&lag, scene) {
        (Some(lag), _) => println!("two replicas, {lag}:"),
        (None, Scene::Shared) => println!("one server, and a store that both caches share:"),
        (None, _) => println!("one server:"),
    }
    report(findings, &all, &beside, (cut_off, frozen), (quick, scene));
    if scene == Scene::Shared {
        let shared: u64 = all.iter().map(|log| log.shared).sum();
        findings.expect("answers that the other process had read", shared, "> 0", shared > 0);
        findings.note("times that the store was frozen or emptied", troubles);
    }
    Ok(())
}

fn report(
    findings: &mut Findings,
    logs: &[Log],
    beside: &[Act],
    (cut_off, frozen): (u32, u32),
    (quick, scene): (bool, Scene),
) {
    let lagging = scene == Scene::Lagging;
    let Checked {
        own,
        late,
        after_reconnect,
        mut delays,
    } = check::check(logs, beside);
    delays.sort_unstable();
    let reads: usize = logs.iter().map(|log| log.reads.len()).sum();
    let writes: usize = logs.iter().map(|log| log.writes.len()).sum();
    let hits: u64 = logs.iter().map(|log| log.hits).sum();
    let operations = reads + writes + beside.len();
    let percentile = |share: f64| {
        let at = (delays.len() as f64 * share) as usize;
        let nanos = delays
            .get(at.min(delays.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default();
        format!("{:.1} ms", nanos as f64 / 1e6)
    };
    let least = match (quick, scene) {
        (true, Scene::Plain) => 2_000,
        (true, _) => 500,
        (false, Scene::Plain) => 200_000,
        (false, _) => 10_000,
    };
    findings.expect("operations", operations, format!(">= {least}"), operations >= least);
    findings.note(
        "reads, own writes, writes by psql",
        format!("{reads} {writes} {}", beside.len()),
    );
    findings.note("answered from memory", hits);
    findings.note("errors of calls", logs.iter().map(|log| log.errors).sum::<u64>());
    findings.expect(
        "listeners cut off, and frozen",
        format!("{cut_off} {frozen}"),
        "some",
        cut_off > 0 && frozen > 0,
    );
    findings.expect("reads without an own write", own, 0, own == 0);
    findings.expect(
        "reads without what was written before the listener came back",
        after_reconnect,
        0,
        after_reconnect == 0,
    );
    findings.expect("reads later than a dead listener is noticed", late, 0, late == 0);
    let share = delays.len() as f64 / reads.max(1) as f64 * 100.0;
    findings.note(
        "reads before another's write was heard of",
        format!("{} ({share:.2} %)", delays.len()),
    );
    findings.note("how late those were, p50", percentile(0.5));
    findings.note("how late those were, p99", percentile(0.99));
    findings.note("how late those were, at most", percentile(1.0));
    findings.expect("hits", hits, "> 0", hits > 0);
    if lagging {
        let on_replicas: u64 = logs.iter().map(|log| log.on_replicas).sum();
        let in_place: u64 = logs.iter().map(|log| log.in_place).sum();
        findings.expect("reads on replicas", on_replicas, "> 0", on_replicas > 0);
        findings.note("reads on the primary in their place", in_place);
    }
}

async fn prepare(server: &Postgres) -> anyhow::Result<()> {
    let mut admin = server.admin().await?;
    sqlx::raw_sql(db_cache::WATCH_SQL).execute(&mut admin).await?;
    for table in 0..TABLES {
        let sql = format!(
            "CREATE TABLE cells_{table} (id int4 PRIMARY KEY, n int8 NOT NULL); \
             INSERT INTO cells_{table} SELECT i, 0 FROM generate_series(0, {CELLS} - 1) AS i; \
             CREATE VIEW seen_{table} AS SELECT id, n FROM cells_{table}; SELECT db_cache.watch('cells_{table}')"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    }
    Ok(())
}

/// Freezes the store, and throws away what is in it. Returns how often.
async fn trouble(redis: Option<Redis>, mut stopped: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<u32> {
    let Some(mut redis) = redis else { return Ok(0) };
    for round in 0_u32.. {
        tokio::select! {
            () = sleep(Duration::from_secs(3)) => {}
            _ = stopped.wait_for(|stop| *stop) => return Ok(round),
        }
        if round % 2 == 0 {
            redis.freeze()?;
            sleep(Duration::from_millis(500)).await;
            redis.thaw()?;
        } else {
            redis.kill().await?;
            redis.start_again().await?;
        }
    }
    Ok(0)
}

/// Ends listening connections, and stops their backends for longer than two heartbeats. Returns how many of each.
async fn cut(server: &Postgres, mut stopped: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<(u32, u32)> {
    const LISTENING: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND (query LIKE 'LISTEN%' OR query = 'SELECT pg_backend_pid()') AND application_name = 'coherence'";
    let mut admin = server.admin().await?;
    let (mut cut_off, mut frozen) = (0, 0);
    for round in 0_u32.. {
        tokio::select! {
            () = sleep(Duration::from_millis(1500)) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
        let pids: Vec<i32> = listening(&mut admin, LISTENING).await?;
        let Some(pid) = pids.get(round as usize % pids.len().max(1)) else {
            continue;
        };
        if round % 3 == 2 {
            let pid = u32::try_from(*pid).context("a process id")?;
            // Gone by itself meanwhile: the next round finds another one.
            if server.freeze_backend(pid).await.is_ok() {
                sleep(HEARTBEAT * 4).await;
                drop(server.thaw_backend(pid).await);
                frozen += 1;
            }
        } else {
            let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
                .bind(pid)
                .fetch_one(&mut admin)
                .await?;
            cut_off += u32::from(ended);
        }
    }
    Ok((cut_off, frozen))
}

async fn listening(admin: &mut PgConnection, sql: &'static str) -> anyhow::Result<Vec<i32>> {
    Ok(sqlx::query_scalar(sql).fetch_all(admin).await?)
}
