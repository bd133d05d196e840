//! Against a real server, over the warm lease pool: what is given up ends there too, and the slot serves on.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Call, Error, Layer, Run, Service, Statement};
use db_pool::{Pool, PoolConfig};
use db_testkit::TestDatabase;
use db_timeout::{Timeout, TimeoutLayer};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_millis(200);
/// A tenth of the statement's own length: the slot is back because it was cancelled, however slow the machine.
const SOON: Duration = Duration::from_secs(3);

struct Bench {
    service: Timeout<Run<Pool>>,
    layer: TimeoutLayer,
    pool: Pool,
    beside: PgConnection,
    _database: TestDatabase,
}

impl Bench {
    /// One connection, in use once.
    async fn new() -> Self {
        let database = db_testkit::database().await;
        let config = PoolConfig {
            max_connections: 1,
            min_connections: 1,
            ..PoolConfig::default()
        };
        let pool = Pool::builder(database.options(), config).build().unwrap();
        let layer = TimeoutLayer::default();
        let bench = Self {
            service: layer.layer(Run(pool.clone())),
            layer,
            pool,
            beside: PgConnection::connect(&database.url()).await.unwrap(),
            _database: database,
        };
        bench.one().await;
        bench
    }

    async fn one(&self) {
        let one = Statement::all("SELECT 1").unwrap();
        assert_eq!(self.service.call(&Call::here(), &one).await.unwrap().rows.len(), 1);
    }

    /// The slot serves another query soon, over the same connection, and nobody sleeps on the server.
    async fn assert_slot_is_back(&mut self) {
        let start = Instant::now();
        self.one().await;
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        let sleepers: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' \
             AND datname = current_database() AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut self.beside)
        .await
        .unwrap();
        assert_eq!(sleepers, 0);
        let stats = self.pool.stats();
        assert_eq!((stats.cancelled, stats.cleaned, stats.size), (1, 1, 1), "{stats:?}");
    }
}

fn sleeper() -> Statement {
    Statement::all("SELECT pg_sleep(30)").unwrap()
}

#[tokio::test]
async fn a_timeout_ends_the_statement_and_frees_the_slot() {
    let mut bench = Bench::new().await;
    let start = Instant::now();
    let error = bench
        .service
        .call(&Call::here().with_timeout(LIMIT), &sleeper())
        .await
        .unwrap_err();
    let waited = start.elapsed();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert!((LIMIT..LIMIT + Duration::from_secs(1)).contains(&waited), "{waited:?}");
    bench.assert_slot_is_back().await;
    println!("the caller had its error {:?} after the limit", waited - LIMIT);
}

#[tokio::test]
async fn a_dropped_call_ends_the_statement_and_frees_the_slot() {
    let mut bench = Bench::new().await;
    assert!(
        timeout(LIMIT, bench.service.call(&Call::here(), &sleeper()))
            .await
            .is_err()
    );
    bench.assert_slot_is_back().await;
    assert_eq!(bench.layer.stats().classes()[2].counts.abandoned, 1);
}

#[tokio::test]
async fn one_limit_covers_the_wait_for_a_lease() {
    let bench = Bench::new().await;
    let held = bench.pool.acquire().await.unwrap();
    let start = Instant::now();
    let error = bench
        .service
        .call(&Call::here().with_timeout(LIMIT), &sleeper())
        .await
        .unwrap_err();
    assert!((LIMIT..LIMIT + Duration::from_secs(1)).contains(&start.elapsed()));
    let Error::Acquire(error) = error else {
        panic!("says less than it could: {error:?}")
    };
    assert_eq!(error.holders.len(), 1, "who holds the lease: {error}");
    drop(held);
    bench.one().await;
}

#[tokio::test]
async fn a_limit_passes_over_the_calls_of_others() {
    let bench = Bench::new().await;
    let (naps, limit) = (
        Statement::all("SELECT pg_sleep(0.02)").unwrap(),
        Duration::from_millis(20),
    );
    for _ in 0..20 {
        // Ends now before, now after its limit; the next one on the same connection is never touched.
        let _ = bench.service.call(&Call::here().with_timeout(limit), &naps).await;
        bench.one().await;
    }
    sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.pool.stats().size, 1);
}
