//! Whatever becomes of the server, the pool heals by itself: no restart of the process, no help.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, OptionsSource};
use db_testkit::{FaultProxy, Postgres};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
};

const CALLERS: u32 = 8;
const LIMITS: Limits = Limits {
    max: 6,
    acquire: Duration::from_secs(2),
};
/// A caller that waits this long hangs.
const HUNG: Duration = Duration::from_secs(20);
/// So many calls in a row without an error are health.
const WELL: u64 = 50;
const PROMISED: Duration = Duration::from_secs(2);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let downtimes: &[u64] = if quick { &[1] } else { &[1, 5, 30] };
    println!(
        "{CALLERS} callers over {} connections; each act ends when {WELL} calls in a row have succeeded",
        LIMITS.max
    );
    let mut findings = Findings::new();
    for &seconds in downtimes {
        let took = killed(Duration::from_secs(seconds)).await?;
        said(
            &mut findings,
            &format!("healthy after kill -9 and {seconds} s down"),
            took,
        );
    }
    said(&mut findings, "healthy after a fast restart", restarted().await?);
    said(
        &mut findings,
        "healthy after promotion and another target",
        promoted().await?,
    );
    said(
        &mut findings,
        "healthy after another password",
        another_password().await?,
    );
    said(&mut findings, "healthy after another name", another_name().await?);
    let (failed, reconnects) = by_hand(if quick { 10 } else { 50 }).await?;
    findings.expect(
        &format!("calls failed by {reconnects} reconnects by hand"),
        failed,
        "0",
        failed == 0,
    );
    Ok(findings.verdict())
}

fn said(findings: &mut Findings, what: &str, took: Duration) {
    findings.expect(
        what,
        format!("{} ms", took.as_millis()),
        format!("at most {} ms", PROMISED.as_millis()),
        took <= PROMISED,
    );
}

/// Callers that go on and on.
struct Load {
    callers: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// Calls that succeeded since the last error.
    well: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Load {
    async fn start(db: &Db, statement: &'static str) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self {
            callers: JoinSet::new(),
            stop,
            well: Arc::default(),
            failed: Arc::default(),
        };
        for _ in 0..CALLERS {
            let (db, stopped) = (db.clone(), stopped.clone());
            let (well, failed) = (load.well.clone(), load.failed.clone());
            load.callers.spawn(async move {
                while !*stopped.borrow() {
                    match sqlx::query(statement).execute(&db).await {
                        Ok(_) => drop(well.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => {
                            well.store(0, Ordering::Relaxed);
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        load.healthy().await?;
        Ok(load)
    }

    /// The time until so many calls in a row have succeeded.
    async fn healthy(&self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        self.well.store(0, Ordering::Relaxed);
        while self.well.load(Ordering::Relaxed) < WELL {
            ensure!(since.elapsed() < HUNG, "it does not become healthy");
            sleep(Duration::from_millis(2)).await;
        }
        Ok(since.elapsed())
    }

    /// All callers have ended; how many calls failed.
    async fn end(mut self) -> u64 {
        self.stop.send_replace(true);
        while self.callers.join_next().await.is_some() {}
        self.failed.load(Ordering::Relaxed)
    }
}

async fn killed(downtime: Duration) -> anyhow::Result<Duration> {
    let server = rig::server().await?;
    let db = rig::db(&server.url(), LIMITS).await?;
    let load = Load::start(&db, "SELECT 1").await?;
    server.kill().await?;
    sleep(downtime).await;
    server.start_again().await?;
    done(db, load).await
}

async fn restarted() -> anyhow::Result<Duration> {
    let server = rig::server().await?;
    let db = rig::db(&server.url(), LIMITS).await?;
    let load = Load::start(&db, "SELECT 1").await?;
    server.restart().await?;
    done(db, load).await
}

/// The primary dies, its standby takes over, and the address leads there: writes have to succeed.
async fn promoted() -> anyhow::Result<Duration> {
    let server = rig::server().await?;
    let standby = server.replica().await?;
    let proxy = FaultProxy::start(server.addr()).await?;
    let db = rig::db(&proxy.url_for(&server), LIMITS).await?;
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&db).await?;
    standby.wait_caught_up(&server, HUNG).await?;
    let load = Load::start(&db, "INSERT INTO written VALUES (1)").await?;
    server.kill().await?;
    standby.promote().await?;
    proxy.set_upstream(standby.addr()).await?;
    done(db, load).await
}

/// The password changes on the server and in the source of options; all sessions end.
async fn another_password() -> anyhow::Result<Duration> {
    let server = Postgres::builder().password_auth("before").start().await?;
    let options = Arc::new(Mutex::new(server.options()));
    let db = sourced(&options).await?;
    let load = Load::start(&db, "SELECT 1").await?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql("ALTER ROLE postgres PASSWORD 'after'")
        .execute(&mut admin)
        .await?;
    {
        let mut options = options.lock();
        *options = options.clone().password("after");
    }
    terminate(&server).await?;
    done(db, load).await
}

/// The name leads to another server: the source says another one.
async fn another_name() -> anyhow::Result<Duration> {
    let (old, new) = (rig::server().await?, rig::server().await?);
    let options = Arc::new(Mutex::new(old.options().host("localhost")));
    let db = sourced(&options).await?;
    let load = Load::start(&db, "SELECT 1").await?;
    *options.lock() = new.options().host("localhost");
    old.kill().await?;
    done(db, load).await
}

async fn by_hand(times: u32) -> anyhow::Result<(u64, u32)> {
    let server = rig::server().await?;
    let db = rig::db(&server.url(), LIMITS).await?;
    let load = Load::start(&db, "SELECT 1").await?;
    for _ in 0..times {
        db.reconnect().await.context("a reconnect failed")?;
        sleep(Duration::from_millis(20)).await;
    }
    let failed = load.end().await;
    db.close().await;
    Ok((failed, times))
}

async fn sourced(options: &Arc<Mutex<PgConnectOptions>>) -> anyhow::Result<Db> {
    let start = options.lock().clone();
    let options = options.clone();
    let source: OptionsSource = Arc::new(move || {
        let now = options.lock().clone();
        Box::pin(async move { Ok(now) })
    });
    let db = Db::builder()
        .options(start)
        .options_from(source)
        .max_connections(LIMITS.max)
        .configure(|config| config.pool.acquire_timeout = LIMITS.acquire);
    db.connect().await.context("Db does not connect")
}

/// Ends all sessions but the one that does it.
async fn terminate(server: &Postgres) -> anyhow::Result<()> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut server.admin().await?)
        .await?;
    Ok(())
}

async fn done(db: Db, load: Load) -> anyhow::Result<Duration> {
    let took = load.healthy().await?;
    load.end().await;
    db.close().await;
    Ok(took)
}
