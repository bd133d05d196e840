//! One of the processes.

use crate::prove::coherence::{Act, CELLS, HEARTBEAT, Log, Order, TABLES, TASKS, now};
use anyhow::ensure;
use db_stack::{Db, Error, Event, Observer, RedisTier, TierSharing};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// No answer is ever too old by its time alone.
const TTL: Duration = Duration::from_secs(3600);

/// Notes when the cache hears of other writers again.
#[derive(Default)]
struct Hearing(Mutex<Vec<u64>>);

impl Observer for Hearing {
    fn event(&self, event: &Event) {
        if matches!(event, Event::CacheListening { live: true }) {
            self.0.lock().push(now());
        }
    }
}

pub(crate) async fn run(order: Order) -> anyhow::Result<()> {
    let hearing = Arc::new(Hearing::default());
    let db = Db::builder()
        .url(&order.url)
        .max_connections(6)
        .observer(hearing.clone())
        .configure(|config| {
            config.cache.heartbeat = HEARTBEAT;
            config.replica.urls = order.replicas.as_str().into();
            config.session.application_name = "coherence".to_owned();
        });
    let db = match &order.redis {
        Some(url) => db.share_cache(TierSharing::new(RedisTier::new(url)?, b"nobody else's secret")?),
        None => db,
    };
    let db = db.connect().await?;
    ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
    let until = Instant::now() + Duration::from_secs(order.seconds);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let dice = fastrand::Rng::with_seed(u64::from(order.process * TASKS + task));
        let least = order.least / u64::from(TASKS);
        // As long as a write of its own has not been heard of, a process does not look into the shared store.
        let one_in = if order.redis.is_some() { 300 } else { 36 };
        tasks.spawn(work(db.clone(), dice, until, least, one_in));
    }
    let mut log = Log::default();
    while let Some(task) = tasks.join_next().await {
        let part = task?;
        log.reads.extend(part.reads);
        log.writes.extend(part.writes);
        log.unknown += part.unknown;
        log.errors += part.errors;
    }
    log.listening_since = hearing.0.lock().clone();
    let stats = db.cache().stats().total;
    (log.hits, log.shared) = (stats.hits, stats.shared);
    let replicas = db.replicas();
    (log.on_replicas, log.in_place) = (replicas.replica_reads, replicas.fallbacks);
    db.close().await;
    Ok(std::fs::write(&order.log, serde_json::to_vec(&log)?)?)
}

/// Mostly reads; three acts of `one_in` are writes, one way or another.
async fn work(db: Db, mut dice: fastrand::Rng, until: Instant, least: u64, one_in: u32) -> Log {
    let mut log = Log::default();
    let mut acts = 0;
    while Instant::now() < until || acts < least {
        acts += 1;
        let cell = Cell {
            table: dice.u32(0..TABLES),
            id: dice.i32(0..i32::try_from(CELLS).unwrap_or(1)),
        };
        let began = now();
        let (count, writes) = match dice.u32(0..one_in) {
            0 => (cell.add(&db).await, true),
            1 => (cell.add_in_transaction(&db).await, true),
            2 => (cell.add_raw(&db).await, true),
            _ => (cell.read(&db, dice.bool()).await, false),
        };
        let ended = now();
        match count {
            Ok(count) => {
                let cell = cell.table * CELLS + cell.id.cast_unsigned();
                let act = Act {
                    cell,
                    count,
                    began,
                    ended,
                };
                if writes { &mut log.writes } else { &mut log.reads }.push(act);
            }
            Err(_) => {
                log.errors += 1;
                log.unknown += u64::from(writes);
            }
        }
        if acts % 4 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    log
}

#[derive(Clone, Copy)]
struct Cell {
    table: u32,
    id: i32,
}

impl Cell {
    fn sql(self, text: &str) -> SqlStr {
        AssertSqlSafe(text.replace('#', &self.table.to_string())).into_sql_str()
    }

    async fn read(self, db: &Db, view: bool) -> Result<i64, Error> {
        let text = if view {
            "SELECT n FROM seen_# WHERE id = $1"
        } else {
            "SELECT n FROM cells_# WHERE id = $1"
        };
        let query = sqlx::query_scalar::<_, i64>(self.sql(text)).bind(self.id);
        Ok(*db.cached(TTL).shared("cell").fetch_one(query).await?)
    }

    async fn add(self, db: &Db) -> Result<i64, Error> {
        let query = sqlx::query_scalar(self.sql("UPDATE cells_# SET n = n + 1 WHERE id = $1 RETURNING n"));
        Ok(query.bind(self.id).fetch_one(db).await?)
    }

    async fn add_in_transaction(self, db: &Db) -> Result<i64, Error> {
        let mut tx = db.begin().await?;
        let query = sqlx::query_scalar(self.sql("UPDATE cells_# SET n = n + 1 WHERE id = $1 RETURNING n"));
        let count = query.bind(self.id).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(count)
    }

    /// On a connection of one's own, given back after the answer.
    async fn add_raw(self, db: &Db) -> Result<i64, Error> {
        let mut lease = db.acquire().await?;
        let query = sqlx::query_scalar(self.sql("UPDATE cells_# SET n = n + 1 WHERE id = $1 RETURNING n"));
        Ok(query.bind(self.id).fetch_one(&mut *lease).await?)
    }
}
