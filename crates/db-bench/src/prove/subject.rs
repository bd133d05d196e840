//! What is put to the proof, and the pool that it replaces beside it.

use db_stack::Db;
use sqlx::{AssertSqlSafe, Executor, PgPool, Row};

/// A pool under the same load as the other.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    /// A statement with one argument and one number as its answer.
    fn number(&self, sql: &'static str, argument: i64) -> impl Future<Output = sqlx::Result<i64>> + Send;

    /// One simple-protocol message, whose first row's first column is a flag.
    fn flag(&self, sql: String) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// A transaction that is dropped as soon as it is open.
    fn begin(&self) -> impl Future<Output = sqlx::Result<()>> + Send;

    fn close(&self) -> impl Future<Output = ()> + Send;
}

impl Subject for Db {
    async fn number(&self, sql: &'static str, argument: i64) -> sqlx::Result<i64> {
        sqlx::query_scalar(sql).bind(argument).fetch_one(self).await
    }

    async fn flag(&self, sql: String) -> sqlx::Result<bool> {
        self.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?.try_get(0)
    }

    async fn begin(&self) -> sqlx::Result<()> {
        Ok(Db::begin(self).await.map(drop)?)
    }

    async fn close(&self) {
        Db::close(self).await;
    }
}

impl Subject for PgPool {
    async fn number(&self, sql: &'static str, argument: i64) -> sqlx::Result<i64> {
        sqlx::query_scalar(sql).bind(argument).fetch_one(self).await
    }

    async fn flag(&self, sql: String) -> sqlx::Result<bool> {
        self.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?.try_get(0)
    }

    async fn begin(&self) -> sqlx::Result<()> {
        PgPool::begin(self).await.map(drop)
    }

    async fn close(&self) {
        PgPool::close(self).await;
    }
}
