//! Many who want few connections: calls that matter beside a flood of those that don't, and tenants who share a table.

use std::{
    collections::BTreeMap,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::Context;
use db_stack::{Db, config::Tenancy};
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

const CONNECTIONS: u32 = 4;
/// Ten times as many as could be served at once.
const FLOOD: u32 = 40;
const TENANTS: u32 = 50;
const QUERY: &str = "SELECT pg_sleep(0.01)";

/// What they got.
#[derive(Default)]
pub(crate) struct Crowd {
    pub(crate) critical: Vec<Duration>,
    pub(crate) critical_failed: u64,
    pub(crate) background: u64,
    pub(crate) background_shed: u64,
    /// Answers by tenant.
    pub(crate) tenants: BTreeMap<u32, u64>,
    /// Rows of another tenant that one was shown.
    pub(crate) foreign: u64,
}

impl Crowd {
    /// The time within which this share of the critical calls ended.
    pub(crate) fn critical_within(&self, share: f64) -> Duration {
        let mut sorted = self.critical.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * share) as usize;
        sorted.get(at).or(sorted.last()).copied().unwrap_or_default()
    }
}

/// A table of all tenants' rows, and a budget of its own beside the workload's.
pub(crate) async fn open(server: &Postgres) -> anyhow::Result<Db> {
    let mut admin = server.admin().await?;
    let sql = format!(
        "CREATE ROLE shop LOGIN; CREATE TABLE note (tenant text, body text); ALTER TABLE note ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON note USING (tenant = current_setting('app.tenant')); GRANT SELECT ON note TO shop; \
         INSERT INTO note SELECT 't' || n, 'a secret' FROM generate_series(1, {TENANTS}) AS n"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    let options = PgConnectOptions::from_str(&server.url())?.username("shop");
    let db = Db::builder()
        .options(options)
        .max_connections(CONNECTIONS)
        .configure(|config| {
            config.session.application_name = "db-stack-demo-crowd".to_owned();
            config.tenants.mode = Tenancy::Row;
        });
    db.connect().await.context("the crowd does not connect")
}

/// Lets them all in until the end.
pub(crate) async fn run(db: Db, ended: watch::Receiver<bool>) -> anyhow::Result<Crowd> {
    let mut tasks = JoinSet::new();
    for _ in 0..FLOOD {
        tasks.spawn(flood(db.background(), ended.clone()));
    }
    for number in 1..=TENANTS {
        tasks.spawn(tenant(db.tenant(&format!("t{number}"))?, number, ended.clone()));
    }
    tasks.spawn(critical(db.critical(), ended));
    let mut all = Crowd::default();
    while let Some(one) = tasks.join_next().await {
        let one = one.context("one of the crowd panicked")?;
        all.critical.extend(one.critical);
        all.critical_failed += one.critical_failed;
        all.background += one.background;
        all.background_shed += one.background_shed;
        all.tenants.extend(one.tenants);
        all.foreign += one.foreign;
    }
    db.close().await;
    Ok(all)
}

async fn critical(db: Db, ended: watch::Receiver<bool>) -> Crowd {
    let mut own = Crowd::default();
    let mut ticks = interval(Duration::from_millis(40));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !*ended.borrow() {
        ticks.tick().await;
        let since = Instant::now();
        match sqlx::query(QUERY).execute(&db).await {
            Ok(_) => own.critical.push(since.elapsed()),
            Err(_) => own.critical_failed += 1,
        }
    }
    own
}

async fn flood(db: Db, ended: watch::Receiver<bool>) -> Crowd {
    let mut own = Crowd::default();
    while !*ended.borrow() {
        match sqlx::query(QUERY).execute(&db).await {
            Ok(_) => own.background += 1,
            Err(_) => {
                own.background_shed += 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    own
}

async fn tenant(db: Db, number: u32, ended: watch::Receiver<bool>) -> Crowd {
    let mut own = Crowd::default();
    let name = format!("t{number}");
    let mut answers = 0;
    while !*ended.borrow() {
        let read = sqlx::query_scalar::<_, String>("SELECT tenant FROM note").fetch_all(&db);
        if let Ok(seen) = read.await {
            answers += u64::from(seen.contains(&name));
            own.foreign += seen.iter().filter(|tenant| **tenant != name).count() as u64;
        }
        sleep(Duration::from_millis(500)).await;
    }
    own.tenants.insert(number, answers);
    own
}
