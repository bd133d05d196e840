//! What the tests of the pool share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{AcquireError, Error, Event, Observer, Observers};
use db_pool::{Pool, PoolConfig, PoolLease};
use db_testkit::{FaultProxy, TestDatabase};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};
use std::{str::FromStr, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// The bound of everything that should happen soon, generous for a machine that does other things as well.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A database of the test's own.
pub(crate) struct Rig {
    pub(crate) database: TestDatabase,
}

pub(crate) async fn rig() -> Rig {
    Rig {
        database: db_testkit::database().await,
    }
}

impl Rig {
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.database.options()
    }

    pub(crate) fn pool(&self, config: PoolConfig) -> Pool {
        Pool::builder(db_testkit::pooled(self.options()), config)
            .build()
            .unwrap()
    }

    /// A pool that tells a log what happens to it.
    pub(crate) fn watched_pool(&self, config: PoolConfig) -> (Pool, Arc<Log>) {
        let (log, observers) = Log::new();
        (
            Pool::builder(db_testkit::pooled(self.options()), config)
                .observers(observers)
                .build()
                .unwrap(),
            log,
        )
    }

    /// A connection beside the pool.
    pub(crate) async fn admin(&self) -> Admin {
        Admin(self.options().application_name("admin").connect().await.unwrap())
    }

    /// A proxy before the server, and the options to connect through it.
    pub(crate) async fn proxy(&self) -> (FaultProxy, PgConnectOptions) {
        let proxy = FaultProxy::start_for_url(&db_testkit::pooled_url(&self.database.url()))
            .await
            .unwrap();
        let options = PgConnectOptions::from_str(&proxy.through(&self.database.url())).unwrap();
        (proxy, options)
    }
}

/// Looks at the database from beside the pool.
pub(crate) struct Admin(pub(crate) PgConnection);

impl Admin {
    pub(crate) async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.unwrap();
    }

    pub(crate) async fn number(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut self.0)
            .await
            .unwrap()
    }

    /// Sessions in this database other than this one, the pool's control connection included.
    pub(crate) async fn sessions(&mut self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND backend_type = 'client backend'",
        )
        .await
    }

    /// Sessions in this database that run a statement with this text.
    pub(crate) async fn running(&mut self, text: &str) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND state = 'active' AND query LIKE '%' || $1 || '%'",
        )
        .bind(text)
        .fetch_one(&mut self.0)
        .await
        .unwrap()
    }

    /// Ends a session.
    pub(crate) async fn terminate(&mut self, pid: i32) {
        sqlx::query("SELECT pg_terminate_backend($1, 5000)")
            .bind(pid)
            .execute(&mut self.0)
            .await
            .unwrap();
    }
}

/// Settings for at most `max` connections, none of them kept up, with limits that a test can wait for.
pub(crate) fn up_to(max: u32) -> PoolConfig {
    PoolConfig {
        max_connections: max,
        min_connections: 0,
        ..PoolConfig::default()
    }
}

/// Polls until `done` says so.
///
/// # Panics
/// When it has not after [`SOON`].
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Leases until the pool has `count` connections, all given back at once.
pub(crate) async fn warm(pool: &Pool, count: u32) {
    let mut leases = Vec::new();
    for _ in 0..count {
        leases.push(pool.acquire().await.unwrap());
    }
    drop(leases);
    assert_eq!(pool.stats().size, count);
}

/// One value by the simple protocol, as text.
pub(crate) async fn text(lease: &mut PoolLease, sql: &str) -> String {
    use sqlx::Row;
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut **lease).await.unwrap();
    row.try_get::<Option<String>, _>(0)
        .unwrap()
        .unwrap_or_else(|| "NULL".to_owned())
}

/// Runs several statements at once.
pub(crate) async fn run(lease: &mut PoolLease, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **lease).await.unwrap();
}

/// Why there was no lease.
pub(crate) fn refusal<T>(result: Result<T, Error>) -> Box<AcquireError> {
    match result {
        Ok(_) => panic!("got a lease"),
        Err(Error::Acquire(error)) => error,
        Err(other) => panic!("not about acquiring: {other:?}"),
    }
}

/// All that happened.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<Event>>);

impl Log {
    pub(crate) fn new() -> (Arc<Self>, Observers) {
        let (log, observers) = (Arc::new(Self::default()), Observers::default());
        observers.add(log.clone());
        (log, observers)
    }

    pub(crate) fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().iter().filter(|event| matches(event)).count()
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().clone()
    }
}

impl Observer for Log {
    fn event(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}
