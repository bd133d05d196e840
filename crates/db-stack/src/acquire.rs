//! `&Db` as an sqlx `Acquire`, so that `sqlx::migrate!().run(&db)` and generic code work.

use crate::{Db, cached::hold_for_raw, lease::Lease};
use db_cache::Cache;
use db_core::{Lease as _, NeedsSession, Result};
use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres, Transaction};

/// A lease on which statements are surely nobody else's.
pub(crate) fn own(lease: Lease) -> Result<Lease> {
    match lease.shared_session() {
        Some(session) if !session.named_statements => Err(NeedsSession::Lease.into()),
        _ => Ok(lease),
    }
}

/// The same for raw use: nothing is answered from the cache as long as it is out.
pub(crate) fn raw(cache: &Cache, lease: Lease) -> Result<Lease> {
    let mut lease = own(lease)?;
    hold_for_raw(cache, &mut lease);
    Ok(lease)
}

impl<'a> Acquire<'a> for &'_ Db {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'a, sqlx::Result<Lease>> {
        let db = self.clone();
        Box::pin(async move {
            db.unconfined("a lease of one's own")?;
            let lease = db.inner.acquire(&db.wishes()).await?;
            Ok(raw(&db.inner.cached.cache, lease)?)
        })
    }

    /// sqlx's own transaction, which only an sqlx pool can make: it opens a connection for it within the same budget.
    /// [`Db::begin`] is warm, and its commit is honest.
    fn begin(self) -> BoxFuture<'a, sqlx::Result<Transaction<'a, Postgres>>> {
        let db = self.clone();
        Box::pin(async move {
            db.unconfined("sqlx's own transaction")?;
            let (inner, call) = (&db.inner, db.wishes());
            let transaction = inner.breaker.around(&call, inner.pool.begin_inner(&call)).await?;
            inner.lent_to_writer();
            Ok(transaction)
        })
    }
}
