//! `&Db` as an sqlx `Acquire`, so that `sqlx::migrate!().run(&db)` and generic code work.

use crate::{Db, lease::Lease};
use db_core::{Lease as _, NeedsSession, Result};
use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres, Transaction};

/// A lease for raw use, unless statements on it could be another client's.
pub(crate) fn own(lease: Lease) -> Result<Lease> {
    match lease.shared_session() {
        Some(session) if !session.named_statements => Err(NeedsSession::Lease.into()),
        _ => Ok(lease),
    }
}

impl<'a> Acquire<'a> for &'_ Db {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'a, sqlx::Result<Lease>> {
        let db = self.clone();
        Box::pin(async move { Ok(own(db.inner.acquire(&db.wishes()).await?)?) })
    }

    /// sqlx's own transaction, which only an sqlx pool can make: it opens a connection for it within the same budget.
    /// [`Db::begin`] is warm, and its commit is honest.
    fn begin(self) -> BoxFuture<'a, sqlx::Result<Transaction<'a, Postgres>>> {
        let db = self.clone();
        Box::pin(async move {
            let (inner, call) = (&db.inner, db.wishes());
            Ok(inner.breaker.around(&call, inner.pool.begin_inner(&call)).await?)
        })
    }
}
