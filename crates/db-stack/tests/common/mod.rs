//! What the tests of the stack share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::{Db, DbBuilder, PoolStats};
use db_testkit::{FaultProxy, TestDatabase};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};
use std::{str::FromStr, time::Duration};
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

    pub(crate) fn builder(&self, max: u32) -> DbBuilder {
        builder(self.options(), max)
    }

    pub(crate) fn db(&self, max: u32) -> Db {
        self.builder(max).build().unwrap()
    }

    /// A table `t (n int)` to begin with.
    pub(crate) async fn with_table(self) -> Self {
        self.admin().await.run("CREATE TABLE t (n int)").await;
        self
    }

    /// A connection beside the stack.
    pub(crate) async fn admin(&self) -> Admin {
        Admin(self.options().application_name("admin").connect().await.unwrap())
    }

    /// A proxy before the server, and a stack that goes through it.
    pub(crate) async fn proxied(&self, max: u32) -> (FaultProxy, Db) {
        let proxy = FaultProxy::start_for_url(&db_testkit::pooled_url(&self.database.url()))
            .await
            .unwrap();
        let options = PgConnectOptions::from_str(&proxy.through(&self.database.url())).unwrap();
        let db = builder(options, max).build().unwrap();
        (proxy, db)
    }
}

/// No connection is kept up, so that tests can count them. Through the run's PgBouncer, where there is one.
pub(crate) fn builder(options: PgConnectOptions, max: u32) -> DbBuilder {
    Db::builder()
        .options(db_testkit::pooled(options))
        .configure(|config| {
            config.pool.min_connections = 0;
            // Nor is anything sent but what the test sends.
            config.pool.statements.warm = 0;
        })
        .max_connections(max)
}

/// Looks at the database from beside the stack.
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

    /// The rows of `t`, which only committed transactions have written.
    pub(crate) async fn rows(&mut self) -> Vec<i32> {
        sqlx::query_scalar("SELECT n FROM t ORDER BY n")
            .fetch_all(&mut self.0)
            .await
            .unwrap()
    }

    /// Sessions in this database other than this one, the control connection included.
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

    /// Sessions that sit in a transaction.
    pub(crate) async fn in_transaction(&mut self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND state LIKE 'idle in transaction%'",
        )
        .await
    }

    /// Ends all sessions in this database but this one.
    pub(crate) async fn terminate_all(&mut self) {
        self.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
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

/// Waits until nobody holds a lease and every connection is clean.
pub(crate) async fn quiet(db: &Db) -> PoolStats {
    until("it is quiet", async || {
        let stats = db.stats();
        stats.idle == stats.size && stats.in_use + stats.quarantined + stats.dialing + stats.lent == 0
    })
    .await;
    db.stats()
}

/// Polls a future `polls` times, each time for as long as an answer takes, and then drops it. `true` when it was done.
pub(crate) async fn poll_and_drop<F: Future>(future: F, polls: u32) -> bool {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if futures::poll!(&mut future).is_ready() {
            return true;
        }
        sleep(Duration::from_millis(1)).await;
    }
    false
}
