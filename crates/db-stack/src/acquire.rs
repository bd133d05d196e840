//! `&Db` as an sqlx `Acquire`, so that `sqlx::migrate!().run(&db)` and generic code work.

use crate::{Db, lease::Lease};
use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres, Transaction};

impl<'a> Acquire<'a> for &'_ Db {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'a, sqlx::Result<Lease>> {
        let db = self.clone();
        Box::pin(async move { Ok(db.inner.acquire(&db.wishes()).await?) })
    }

    /// sqlx's own transaction, which only an sqlx pool can make: it opens a connection for it within the same budget.
    /// [`Db::begin`] is warm, and its commit is honest.
    fn begin(self) -> BoxFuture<'a, sqlx::Result<Transaction<'a, Postgres>>> {
        let db = self.clone();
        Box::pin(async move { Ok(db.inner.pool.begin_inner(&db.wishes()).await?) })
    }
}
