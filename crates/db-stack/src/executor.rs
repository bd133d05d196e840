//! `&Db` as an sqlx executor: every query goes down the stack.

use crate::{Db, acquire, stream};
use db_core::{Error, Lease, LeaseState, NeedsSession, Rows, Statement, Want};
use futures_core::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

impl Db {
    fn run<'e, 'q, E, T>(
        &self,
        query: E,
        want: Want,
        pick: impl FnOnce(Rows) -> T + Send + 'static,
    ) -> BoxFuture<'e, sqlx::Result<T>>
    where
        E: Execute<'q, Postgres>,
    {
        let statement = Statement::new(query, want);
        let (inner, mut call) = (self.inner.clone(), self.wishes());
        Box::pin(async move {
            let statement = inner.telemetry.tagging.on(statement?);
            call.statement = Some(statement.facts().fingerprint());
            Ok(pick(inner.stack.call(&call, &statement).await?))
        })
    }
}

impl<'p> Executor<'p> for &'_ Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        stream::steps(self, query)
    }

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<PgQueryResult>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(query, Want::Count, |rows| rows.result)
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Vec<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(query, Want::All, |rows| rows.rows)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(query, Want::First, |rows| rows.rows.into_iter().next())
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        let db = self.clone();
        Box::pin(async move {
            let mut lease = acquire::own(db.inner.acquire(&db.wishes()).await?)?;
            let prepared = lease.start().prepare_with(sql, parameters).await;
            lease.settle(left_by(&prepared));
            prepared
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'p: 'e,
    {
        let db = self.clone();
        Box::pin(async move {
            let mut lease = acquire::own(db.inner.acquire(&db.wishes()).await?)?;
            if lease.shared_session().is_some() {
                return Err(Error::from(NeedsSession::Describe).into());
            }
            let described = lease.start().describe(sql).await;
            lease.settle(left_by(&described));
            described
        })
    }
}

/// How a preparation leaves the lease. Its error is sqlx's own: only its kind is looked at here.
fn left_by<T>(result: &sqlx::Result<T>) -> LeaseState {
    match result {
        Ok(_) => LeaseState::Clean,
        Err(sqlx::Error::Database(_)) => LeaseState::Verify,
        Err(_) => LeaseState::Broken,
    }
}
