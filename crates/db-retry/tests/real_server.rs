//! Against a real server, over an unmodified sqlx pool: errors as PostgreSQL sends them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Call, Error, Layer, RetryCause, Rows, Run, Service, Statement};
use db_retry::{Fate, Retry, RetryLayer, RetryPolicy, fate};
use db_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, Row, postgres::PgPoolOptions};

/// As many broken connections as three attempts get past: sqlx's pool hands out the oldest first.
const SIZE: u32 = 2;

struct Rig {
    database: TestDatabase,
    pool: PgPool,
    policy: RetryPolicy,
    service: Retry<Run<PgPool>>,
}

async fn rig() -> Rig {
    let database = db_testkit::database().await;
    // Without the ping, a dead connection is found by the statement, as under load.
    let options = PgPoolOptions::new()
        .min_connections(SIZE)
        .max_connections(SIZE)
        .test_before_acquire(false);
    let pool = options.connect_with(database.options()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE orders (id int, amount int); INSERT INTO orders VALUES (1, 10)")
        .execute(&pool)
        .await
        .unwrap();
    let policy = RetryPolicy::default();
    let service = RetryLayer::new(policy.clone()).layer(Run(pool.clone()));
    Rig {
        database,
        pool,
        policy,
        service,
    }
}

impl Rig {
    async fn call(&self, sql: &'static str) -> Result<Rows, Error> {
        self.service
            .call(&Call::here(), &Statement::all(sqlx::query(sql)).unwrap())
            .await
    }

    /// Ends all sessions of the pool, which does not notice.
    async fn end_all_sessions(&self) {
        let mut admin = self.database.options().connect().await.unwrap();
        let others = "datname = current_database() AND pid <> pg_backend_pid()";
        let end = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}");
        sqlx::query(AssertSqlSafe(end)).execute(&mut admin).await.unwrap();
    }
}

#[tokio::test]
async fn a_plan_that_outlived_a_change_of_schema_is_never_seen() {
    let rig = rig().await;
    for (round, to) in ["bigint", "numeric", "text"].into_iter().enumerate() {
        // Every connection has the statement prepared.
        let mut held = Vec::new();
        for _ in 0..SIZE {
            held.push(rig.pool.acquire().await.unwrap());
        }
        for conn in &mut held {
            sqlx::query("SELECT amount FROM orders")
                .fetch_all(&mut **conn)
                .await
                .unwrap();
        }
        drop(held);
        let change = format!("ALTER TABLE orders ALTER amount TYPE {to}");
        sqlx::raw_sql(AssertSqlSafe(change)).execute(&rig.pool).await.unwrap();
        for _ in 0..SIZE * 4 {
            let rows = rig.call("SELECT amount FROM orders").await.unwrap().rows;
            assert_eq!(rows.len(), 1);
        }
        let stale = rig.policy.stats().cause(RetryCause::StalePlan);
        assert!(stale.retries > round as u64, "it was met: {stale:?}");
    }
    assert_eq!(rig.policy.stats().succeeded(), u64::from(SIZE * 4 * 3));
}

#[tokio::test]
async fn a_session_that_was_ended_costs_a_read_nothing_and_a_write_is_not_doubled() {
    let rig = rig().await;
    rig.end_all_sessions().await;
    for _ in 0..SIZE * 2 {
        rig.call("SELECT amount FROM orders").await.unwrap();
    }
    assert!(rig.policy.stats().cause(RetryCause::ConnectionLost).recovered > 0);

    rig.end_all_sessions().await;
    let (mut acknowledged, mut unknown) = (0, 0);
    for _ in 0..SIZE * 2 {
        match rig.call("INSERT INTO orders VALUES (2, 20)").await {
            Ok(_) => acknowledged += 1,
            Err(error) => {
                assert_eq!(fate(&error), Fate::MayHaveRun, "{error:?}");
                unknown += 1;
            }
        }
    }
    let rows = rig.call("SELECT count(*) FROM orders WHERE id = 2").await.unwrap().rows;
    let stored = rows[0].get::<i64, _>(0);
    assert!(unknown > 0 && acknowledged > 0, "both were met");
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&stored),
        "{stored} for {acknowledged} and {unknown}"
    );
}
