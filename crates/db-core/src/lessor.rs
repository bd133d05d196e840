//! Seam 2 from the other side: what a source can find out about the leases it has handed out, and how it takes one back.

use crate::{Result, StatementFacts};
use sqlx::PgPool;
use std::{fmt, future::Future, sync::Arc, time::Duration};

/// One lease among all that its source ever handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// The place of its connection among the open ones.
    pub slot: u32,
    /// Its number among the source's leases: a connection's next lease has another one.
    pub serial: u64,
}

/// What a session is doing, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionState {
    /// Runs a statement.
    Active,
    /// Waits for a statement, outside any transaction.
    Idle,
    /// Waits for a statement, inside a transaction.
    IdleInTransaction,
    /// The server has no such session (any more).
    Gone,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            Self::Gone => "gone",
        })
    }
}

/// The server's view of the session under a lease.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Session {
    /// The lease.
    pub lease: LeaseId,
    /// The server's process.
    pub backend_pid: i32,
    /// What it does.
    pub state: SessionState,
    /// For how long it has been in that state.
    pub for_long: Duration,
    /// What it waits for, as the server names it (`Lock: transactionid`).
    pub waits_for: Option<Arc<str>>,
    /// The statement that it runs or ran last.
    pub statement: Option<Arc<StatementFacts>>,
    /// The server's processes that hold the lock it waits for.
    pub blocked_by: Vec<i32>,
    /// The server's processes that wait for a lock it holds; at most 100.
    pub blocks: Vec<i32>,
}

impl Session {
    /// A session of which the server knows nothing more.
    pub fn new(lease: LeaseId, backend_pid: i32, state: SessionState) -> Self {
        Self {
            lease,
            backend_pid,
            state,
            for_long: Duration::ZERO,
            waits_for: None,
            statement: None,
            blocked_by: Vec::new(),
            blocks: Vec::new(),
        }
    }
}

/// How to end what a lease's session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSession {
    /// Its statement only.
    Cancel,
    /// All of it. The lease's place in the budget is free from then on.
    Terminate,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The server has been told.
    Sent,
    /// There was nothing to end: the lease has come back, or its session is gone.
    Gone,
    /// The server could not be told; another try may succeed.
    Failed,
}

/// Knows more about its leases than the callers who hold them. The defaults know nothing and take nothing back.
pub trait Lessor: Send + Sync {
    /// Asks the server about the sessions under these leases; those that have come back are left out. Bounded in time.
    ///
    /// # Errors
    /// When the server can't be asked.
    fn examine(&self, leases: &[LeaseId]) -> impl Future<Output = Result<Vec<Session>>> + Send {
        let _ = leases;
        std::future::ready(Ok(Vec::new()))
    }

    /// Whether a caller has to wait until another one gives its lease back: nothing is idle, and the source may not
    /// grow.
    fn is_saturated(&self) -> bool {
        false
    }

    /// Takes the lease's connection out of use: whenever the lease comes back, it is closed. False when it has come
    /// back already.
    fn revoke(&self, lease: LeaseId) -> bool {
        let _ = lease;
        false
    }

    /// Ends what the session of a revoked lease does; of any other it does nothing. Bounded in time.
    fn end(&self, lease: LeaseId, how: EndSession) -> impl Future<Output = Signalled> + Send {
        let _ = (lease, how);
        std::future::ready(Signalled::Failed)
    }
}

/// sqlx's own pool shows neither its leases nor their sessions.
impl Lessor for PgPool {}

impl<L: Lessor> Lessor for Arc<L> {
    fn examine(&self, leases: &[LeaseId]) -> impl Future<Output = Result<Vec<Session>>> + Send {
        L::examine(self, leases)
    }

    fn is_saturated(&self) -> bool {
        L::is_saturated(self)
    }

    fn revoke(&self, lease: LeaseId) -> bool {
        L::revoke(self, lease)
    }

    fn end(&self, lease: LeaseId, how: EndSession) -> impl Future<Output = Signalled> + Send {
        L::end(self, lease, how)
    }
}
