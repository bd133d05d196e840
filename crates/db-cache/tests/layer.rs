//! The cache without the facade: as a layer around any operation whose output can be cloned.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_cache::{Cache, CacheConfig, Cacheable, Fetch, Key, KeySeed, Policy};
use db_core::{Call, Layer, Observers, Operation, Result, Run, Service, Statement, StatementFacts};
use sqlx::{
    PgConnection, PgPool, Row,
    postgres::{PgListener, PgPoolOptions},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

const SOON: Duration = Duration::from_secs(10);

/// Sums a table up, and counts how often it is asked to.
struct Sum {
    key: Key,
    statement: Statement,
    policy: Policy,
    runs: Arc<AtomicU32>,
}

impl Operation for Sum {
    type Output = i64;

    async fn run(&self, conn: &mut PgConnection) -> Result<i64> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let rows = self.statement.run(conn).await?;
        Ok(rows.rows[0].try_get(0)?)
    }

    fn facts(&self) -> Option<&Arc<StatementFacts>> {
        Some(self.statement.facts())
    }
}

impl Cacheable for Sum {
    fn key(&self) -> Option<Key> {
        Some(self.key)
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn bytes(_: &i64) -> usize {
        8
    }
}

#[tokio::test]
async fn an_operation_is_answered_from_memory_until_its_table_is_written() {
    let database = db_testkit::database().await;
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(3)
        .connect(&database.url())
        .await
        .unwrap();
    sqlx::query("CREATE TABLE t (n int8)").execute(&pool).await.unwrap();
    let cache = Cache::new(CacheConfig::default(), Observers::default()).unwrap();
    let url = database.url();
    let serving = tokio::spawn(cache.clone().serve(pool.clone(), move || {
        let url = url.clone();
        async move { PgListener::connect(&url).await }
    }));
    assert!(cache.ready(SOON).await);
    let runs = Arc::new(AtomicU32::new(0));
    let mut statement = Statement::all("SELECT coalesce(sum(n), 0)::int8 FROM t").unwrap();
    let key = KeySeed::random(&[]).key().fetch(Fetch::All).statement(&mut statement);
    let sum = Sum {
        key,
        statement,
        policy: Policy::default(),
        runs: Arc::clone(&runs),
    };
    let writes = cache.write_layer().layer(Run(pool.clone()));
    let reads = cache.layer().layer(Run(pool.clone()));
    let call = Call::default();
    for _ in 0..3 {
        assert_eq!(reads.call(&call, &sum).await.unwrap(), 0);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    let write = Statement::all("INSERT INTO t VALUES (5)").unwrap();
    writes.call(&call, &write).await.unwrap();
    for _ in 0..3 {
        assert_eq!(reads.call(&call, &sum).await.unwrap(), 5);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    cache.invalidate_key(key);
    assert_eq!(reads.call(&call, &sum).await.unwrap(), 5);
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let total = cache.stats().total;
    assert_eq!((total.hits, total.misses), (4, 3));
    serving.abort();
}
