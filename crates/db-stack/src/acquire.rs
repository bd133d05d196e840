//! `&Db` as an sqlx `Acquire`, so that `sqlx::migrate!().run(&db)` and generic code work.

use crate::{Db, cached::hold_for_raw, db::Inner, lease::Lease};
use db_cache::Cache;
use db_core::{AcquireError, AcquireFailure, Call, Lease as _, NeedsSession, Result};
use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres, Transaction};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// So much longer than the pool the facade waits, since the pool knows more about why there was none.
const LAST_WORD: Duration = Duration::from_millis(1);

/// A lease within the timeout and the deadline of the handle. The time layer is about calls, and a lease is none: the
/// deadline alone would bound the wait in the queue, and not the test of a connection that has died meanwhile.
pub(crate) async fn in_time(inner: &Inner, call: Call) -> Result<Lease> {
    let began = Instant::now();
    let call = match call.timeout {
        Some(timeout) => call.with_deadline(began + timeout),
        None => call,
    };
    let Some(deadline) = call.deadline else {
        return inner.acquire(&call).await;
    };
    match timeout_at(deadline + LAST_WORD, inner.acquire(&call)).await {
        Ok(lease) => lease,
        Err(_) => Err(AcquireError::new(AcquireFailure::TimedOut, began.elapsed()).into()),
    }
}

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
            let lease = in_time(&db.inner, db.wishes()).await?;
            Ok(raw(&db.inner.cached.cache, lease)?)
        })
    }

    /// sqlx's own transaction, which only an sqlx pool can make: it opens a connection for it within the same budget.
    /// [`Db::begin`] is warm, and its commit is honest.
    fn begin(self) -> BoxFuture<'a, sqlx::Result<Transaction<'a, Postgres>>> {
        let db = self.clone();
        Box::pin(async move {
            db.at_home("sqlx's own transaction")?;
            let (inner, call) = (&db.inner, db.wishes());
            let transaction = inner.breaker.around(&call, inner.pool.begin_inner(&call)).await?;
            inner.lent_to_writer();
            Ok(transaction)
        })
    }
}
