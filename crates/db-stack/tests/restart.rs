//! The server goes down under load and comes back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, quiet};
use db_stack::{Db, Error};
use db_testkit::Postgres;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const ACQUIRE: Duration = Duration::from_millis(800);

struct Load {
    workers: Vec<JoinHandle<Duration>>,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
}

impl Load {
    /// Workers that insert and count what was acknowledged. Each ends with its longest call.
    fn start(db: &Db, acknowledged: &Arc<AtomicU64>) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let workers = (0..12)
            .map(|i| {
                let (db, stop, served, acknowledged) = (db.clone(), stop.clone(), served.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let since = Instant::now();
                        let outcome = if i % 2 == 0 {
                            sqlx::query("INSERT INTO done VALUES (1)")
                                .execute(&db)
                                .await
                                .map(drop)
                                .map_err(Error::from)
                        } else {
                            in_a_transaction(&db).await
                        };
                        longest = longest.max(since.elapsed());
                        match outcome {
                            Ok(()) => {
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            // Down, broken on the way, starting up: whatever it is, it is said and not hung on.
                            Err(_) => sleep(Duration::from_millis(5)).await,
                        }
                    }
                    longest
                })
            })
            .collect();
        Self { workers, stop, served }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// The time until somebody is served again.
    async fn served_again(&self) -> Duration {
        let (since, before) = (Instant::now(), self.served());
        while self.served() == before {
            assert!(since.elapsed() < SOON, "nobody is served");
            sleep(Duration::from_millis(2)).await;
        }
        since.elapsed()
    }

    async fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for worker in self.workers {
            longest = longest.max(timeout(SOON, worker).await.expect("nobody hangs").unwrap());
        }
        longest
    }
}

async fn in_a_transaction(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO done VALUES (1)").execute(&mut *tx).await?;
    tx.commit().await
}

async fn setup() -> (Postgres, Db) {
    let server = Postgres::start().await.unwrap();
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE done (n int)")
        .execute(&mut admin)
        .await
        .unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap();
    let db = builder(options, 6)
        .configure(|config| config.pool.acquire_timeout = ACQUIRE)
        .build()
        .unwrap();
    (server, db)
}

async fn rows(server: &Postgres) -> u64 {
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM done")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    rows.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_under_load() {
    let (server, db) = setup().await;
    let acknowledged = Arc::default();
    let load = Load::start(&db, &acknowledged);
    load.served_again().await;
    for down in [100, 1200] {
        server.kill().await.unwrap();
        sleep(Duration::from_millis(down)).await;
        server.start_again().await.unwrap();
        let took = load.served_again().await;
        assert!(
            took < Duration::from_secs(1),
            "{took:?} after the server was ready again"
        );
    }
    let longest = load.stop().await;
    // Its own limit, and what a busy machine adds.
    assert!(
        longest < ACQUIRE + Duration::from_secs(2),
        "somebody hung for {longest:?}"
    );
    // Killed, not powered off: what was acknowledged is there. What was not may be there as well.
    assert!(rows(&server).await >= acknowledged.load(Ordering::Relaxed));
    let stats = quiet(&db).await;
    assert!(stats.size <= 6, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_in_order_under_load() {
    let (server, db) = setup().await;
    let acknowledged = Arc::default();
    let load = Load::start(&db, &acknowledged);
    load.served_again().await;
    for _ in 0..3 {
        server.restart().await.unwrap();
        let took = load.served_again().await;
        assert!(
            took < Duration::from_secs(1),
            "{took:?} after the server was ready again"
        );
    }
    let longest = load.stop().await;
    assert!(
        longest < ACQUIRE + Duration::from_secs(2),
        "somebody hung for {longest:?}"
    );
    assert!(rows(&server).await >= acknowledged.load(Ordering::Relaxed));
}

/// The kernel still accepts connections, and nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_and_thawed() {
    let (server, db) = setup().await;
    let one = async || {
        let one = sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&db);
        matches!(timeout(Duration::from_millis(500), one).await, Ok(Ok(1)))
    };
    common::until("somebody is served", one).await;
    server.freeze().await.unwrap();
    for _ in 0..4 {
        assert!(!one().await);
    }
    server.thaw().await.unwrap();
    let since = Instant::now();
    while !one().await {
        assert!(since.elapsed() < SOON, "it does not come back");
    }
    let stats = quiet(&db).await;
    assert!(stats.size <= 6, "{stats:?}");
}

#[tokio::test]
async fn down_at_the_start_and_up_later() {
    let server = Postgres::start().await.unwrap();
    server.stop().await.unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap();
    let db = builder(options, 2)
        .configure(|config| config.pool.acquire_timeout = ACQUIRE)
        .build()
        .unwrap();
    let error = Error::from(sqlx::query("SELECT 1").execute(&db).await.unwrap_err());
    assert!(
        matches!(&error, Error::Acquire(why) if why.failure == db_stack::AcquireFailure::Down),
        "{error:?}"
    );
    server.start_again().await.unwrap();
    timeout(SOON, sqlx::query("SELECT 1").execute(&db))
        .await
        .unwrap()
        .unwrap();
}
