//! One process of a service that runs as several: a pool that would like to have 30 connections, and callers who want them.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use db_pool::LimitPolicy;
use db_stack::{AcquireFailure, Db, Error, Mode};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::prove::{rig::APPLICATION, subject::Subject};

/// Tells a process that it is one of several, and what to do.
pub(super) const ORDER: &str = "DB_STACK_ADAPTIVE_INSTANCE";
/// How long before its end a process says how many connections it has: nobody has gone yet by then.
const BEFORE: Duration = Duration::from_millis(700);

/// What one process is to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) url: String,
    pub(super) callers: i64,
    pub(super) span: Duration,
    /// Where its account goes.
    pub(super) account: PathBuf,
}

/// What one process saw.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) served: u64,
    /// Callers who were told of 53300.
    pub(super) too_many: u64,
    pub(super) failed: u64,
    pub(super) dials: u64,
    pub(super) dials_refused: u64,
    /// Connections towards the end.
    pub(super) size: u32,
}

pub(super) async fn run(order: Order) -> anyhow::Result<()> {
    let db = Db::builder().url(&order.url).max_connections(30).configure(|config| {
        config.session.application_name = APPLICATION.to_owned();
        config.pool.limit.mode = Mode::Enforce;
        // The climb is the other half's: here each wants all that it can get.
        config.pool.limit.policy = LimitPolicy::Utilization;
        config.pool.limit.census_interval = Duration::from_millis(250);
    });
    let db = db.connect().await.context("Db does not connect")?;
    let end = Instant::now() + order.span;
    let counts: Arc<[AtomicU64; 3]> = Arc::default();
    let mut callers = JoinSet::new();
    for caller in 0..order.callers {
        let (db, counts) = (db.clone(), counts.clone());
        callers.spawn(async move {
            let [served, too_many, failed] = &*counts;
            while Instant::now() < end {
                let count = match db.number("SELECT $1::int8 FROM pg_sleep(0.005)", caller).await {
                    Ok(_) => served,
                    Err(error) if is_too_many(&error) => too_many,
                    Err(_) => failed,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    sleep_until(end - BEFORE).await;
    let size = db.stats().size;
    callers.join_all().await;
    let stats = db.stats();
    db.close().await;
    let count = |at: usize| counts[at].load(Ordering::Relaxed);
    let account = Account {
        served: count(0),
        too_many: count(1),
        failed: count(2),
        dials: stats.connects + stats.connect_failures,
        dials_refused: stats.connect_failures,
        size,
    };
    let text = serde_json::to_vec(&account)?;
    tokio::fs::write(&order.account, text).await.context("the account")
}

fn is_too_many(error: &sqlx::Error) -> bool {
    match Error::find(error) {
        Some(Error::Acquire(acquire)) => acquire.failure == AcquireFailure::TooManyConnections,
        _ => error.to_string().contains("53300"),
    }
}
