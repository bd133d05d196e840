//! Seam 2: what to run it on.

use crate::{Call, Error, Fingerprint, LeaseId, LeaseRevoked, Result, SharedSession, SqlState, StatementFacts};
use sqlx::{PgConnection, PgPool, Postgres, SqlStr, pool::PoolConnection};
use std::{any::Any, future::Future, ops::DerefMut, sync::Arc};
use tokio::time::Instant;

/// How an operation left its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Idle, outside a transaction, session unchanged: the next caller may have it as it is.
    Clean,
    /// Alive, but with a transaction or session state that has to be checked and reset first.
    Verify,
    /// Alive and idle, but a prepared statement on it is out of date or gone: forget its statements before anybody
    /// uses it again, and check it as for [`LeaseState::Verify`]. Other connections of the same server may hold the
    /// same stale plans. A source that can't clear a connection's statements closes it.
    StalePlans,
    /// Alive and idle, but the server took no write: after a failover, a standby. A source finds out whether it is one,
    /// and then connects anew to wherever the address leads; one that can't find out closes the connection.
    WrongNode,
    /// The wire is broken or out of step: close it.
    Broken,
}

impl LeaseState {
    /// The state in which a failed operation leaves its lease.
    pub fn after(error: &Error) -> Self {
        match error {
            Error::Server(server) if !server.is_fatal() => match server.state() {
                state if state.is_stale_plan(server.routine()) => Self::StalePlans,
                SqlState::DuplicatePreparedStatement => Self::StalePlans,
                state if state.is_wrong_node() => Self::WrongNode,
                // Our statement met a transaction that it should not have met: find out, and end it.
                SqlState::InFailedTransaction | SqlState::ActiveTransaction | SqlState::NoActiveTransaction => {
                    Self::Verify
                }
                _ => Self::Clean,
            },
            Error::NeedsSession(_) => Self::Clean,
            Error::Server(_) | Error::Network { .. } => Self::Broken,
            // Nothing is known about how far the driver got: the next use must find out.
            _ => Self::Verify,
        }
    }
}

/// What a holder tells about its lease while it has it, for those who keep account of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseNote {
    /// This statement is about to run.
    Statement(Fingerprint),
    /// A transaction has begun.
    Begun,
    /// The transaction is over.
    Ended,
}

/// A place on a connection where a layer around its source keeps what it knows about it from one lease to the next.
pub type Attachment = Option<Arc<dyn Any + Send + Sync>>;

/// A connection in use.
///
/// Mutable access through `DerefMut` is *raw* access: whoever has `&mut PgConnection` can leave anything behind, so
/// a lease that was touched that way is verified on its way back. The stack's own operations use [`Lease::start`]
/// and [`Lease::settle`] instead, which cost no such trip.
pub trait Lease: DerefMut<Target = PgConnection> + Send {
    /// The connection for one operation of the stack. Until [`Lease::settle`] the lease counts as having work in
    /// flight: dropped in between, it goes through quarantine.
    fn start(&mut self) -> &mut PgConnection {
        &mut *self
    }

    /// Set when a transaction pooler stands before the server, so that nothing may be assumed of the session.
    fn shared_session(&self) -> Option<&Arc<SharedSession>> {
        None
    }

    /// Says how the operation left the connection.
    fn settle(&mut self, state: LeaseState) {
        let _ = state;
    }

    /// Tells what happens on the connection. Costs nothing where nobody keeps account.
    fn note(&mut self, note: LeaseNote) {
        let _ = note;
    }

    /// The use of a text from which on it is kept prepared; its earlier runs leave no statement on the connection.
    fn prepare_from(&self) -> u64 {
        1
    }

    /// Tells that a text was run which connections keep prepared, and how many of those the connection held before.
    fn ran(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr, held: usize) {
        let _ = (sql, held);
        facts.count_use();
    }

    /// Whether the lease was taken back from its holder; see [`Lessor`](crate::Lessor).
    fn revoked(&self) -> Option<LeaseRevoked> {
        None
    }

    /// Its number, where the source numbers its leases.
    fn id(&self) -> Option<LeaseId> {
        None
    }

    /// When it was handed out, where the source has looked at the clock already.
    fn since(&self) -> Option<Instant> {
        None
    }

    /// Says that the lease is about to be dropped, and when, so that the source need not look at the clock again.
    fn returning(&mut self, now: Instant) {
        let _ = now;
    }

    /// The connection's place for a layer around the source, where it has one.
    fn attachment(&mut self) -> Option<&mut Attachment> {
        None
    }
}

/// Hands out leases.
///
/// A dropped `acquire` future loses nothing: a lease already assigned to it goes to the next waiter.
pub trait Source: Send + Sync {
    /// A connection in use; dropping it gives it back.
    type Lease: Lease;

    /// Waits for a lease, at most until the call's deadline or the source's own limit.
    fn acquire(&self, call: &Call) -> impl Future<Output = Result<Self::Lease>> + Send;
}

impl<S: Source> Source for Arc<S> {
    type Lease = S::Lease;

    fn acquire(&self, call: &Call) -> impl Future<Output = Result<S::Lease>> + Send {
        S::acquire(self, call)
    }
}

impl Lease for PoolConnection<Postgres> {
    fn settle(&mut self, state: LeaseState) {
        // sqlx's pool can't be told to clear one connection's statements in time: a new connection has none.
        if matches!(
            state,
            LeaseState::Broken | LeaseState::StalePlans | LeaseState::WrongNode
        ) {
            self.close_on_drop();
        }
    }
}

/// An unmodified sqlx pool is a source, so that every layer works around it.
impl Source for PgPool {
    type Lease = PoolConnection<Postgres>;

    async fn acquire(&self, _: &Call) -> Result<Self::Lease> {
        Ok(PgPool::acquire(self).await?)
    }
}
