//! `&Db` as an sqlx `Acquire`, so that `sqlx::migrate!().run(&db)` and generic code work.

use crate::Db;
use db_core::Source;
use db_pool::PoolLease;
use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres, Transaction};

impl<'a> Acquire<'a> for &'_ Db {
    type Database = Postgres;
    type Connection = PoolLease;

    fn acquire(self) -> BoxFuture<'a, sqlx::Result<PoolLease>> {
        let db = self.clone();
        Box::pin(async move { Ok(Source::acquire(&db.inner.pool, &db.wishes()).await?) })
    }

    /// sqlx's own transaction, which only an sqlx pool can make: it opens a connection for it within the same budget.
    /// [`Db::begin`] is warm, and its commit is honest.
    fn begin(self) -> BoxFuture<'a, sqlx::Result<Transaction<'a, Postgres>>> {
        let db = self.clone();
        Box::pin(async move { Ok(db.inner.pool.begin_inner(&db.wishes()).await?) })
    }
}
