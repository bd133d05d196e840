//! A lease that has been out for too long, and why.

use crate::{Fingerprint, LeaseId, Priority, QueryClass, Session};
use std::{fmt, panic::Location, sync::Arc, time::Duration};

/// What its holder has told about a lease's transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionState {
    /// None was begun.
    #[default]
    None,
    /// One is open.
    Open,
    /// The connection was handed out raw: only the server knows.
    Unknown,
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Open => "open",
            Self::Unknown => "unknown",
        })
    }
}

/// Why a lease has been out for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseCause {
    /// Its session is idle and nobody uses it: forgotten, parked somewhere, or held by a task that is stuck.
    Unused,
    /// Its holder uses it again and again.
    Busy,
    /// A transaction is open on it and nobody goes on with it.
    IdleInTransaction,
    /// One statement runs for that long.
    SlowStatement,
    /// Its statement waits for a lock.
    LockWait,
    /// Its session has ended on the server, and its holder has not noticed.
    SessionGone,
    /// The server could not be asked, or the source shows no sessions.
    Unknown,
}

impl LeaseCause {
    /// Every cause, in the order of [`LeaseCause::index`].
    pub const ALL: [Self; 7] = [
        Self::Unused,
        Self::Busy,
        Self::IdleInTransaction,
        Self::SlowStatement,
        Self::LockWait,
        Self::SessionGone,
        Self::Unknown,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Busy => "busy",
            Self::IdleInTransaction => "idle_in_transaction",
            Self::SlowStatement => "slow_statement",
            Self::LockWait => "lock_wait",
            Self::SessionGone => "session_gone",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for LeaseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unused => "nobody uses it",
            Self::Busy => "its holder keeps using it",
            Self::IdleInTransaction => "a transaction was left open on it",
            Self::SlowStatement => "a statement on it is still running",
            Self::LockWait => "its statement waits for a lock",
            Self::SessionGone => "its session has ended on the server",
            Self::Unknown => "the server could not be asked why",
        })
    }
}

/// A lease that has been out for longer than its class allows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Suspect {
    /// The lease, where its source numbers them.
    pub lease: Option<LeaseId>,
    /// Where it was asked for.
    pub site: Option<&'static Location<'static>>,
    /// The statement that it was asked for, if the stack runs it.
    pub statement: Option<Fingerprint>,
    /// The latest statement that its holder told of.
    pub last_statement: Option<Fingerprint>,
    /// The class of the call.
    pub class: QueryClass,
    /// The priority of the call.
    pub priority: Priority,
    /// How long it had been out.
    pub held: Duration,
    /// What its holder has told about a transaction.
    pub transaction: TransactionState,
    /// Why it is out.
    pub cause: LeaseCause,
    /// The server's view, where it could be asked.
    pub session: Option<Session>,
    /// Where its holder's task was when it got the lease, if it was sampled.
    pub backtrace: Option<Arc<str>>,
}

impl Suspect {
    /// A suspect of which nothing more is known.
    pub fn new(class: QueryClass, held: Duration, cause: LeaseCause) -> Self {
        Self {
            lease: None,
            site: None,
            statement: None,
            last_statement: None,
            class,
            priority: Priority::default(),
            held,
            transaction: TransactionState::None,
            cause,
            session: None,
            backtrace: None,
        }
    }
}

/// `<file>:<line>`, or the statement when only that is known.
pub(crate) struct At(
    pub(crate) Option<&'static Location<'static>>,
    pub(crate) Option<Fingerprint>,
);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(site), _) => write!(f, "{}:{}", site.file(), site.line()),
            (None, Some(statement)) => write!(f, "statement {statement}"),
            (None, None) => f.write_str("an unnamed caller"),
        }
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = At(self.site, self.statement);
        write!(f, "{at} has held a lease for {:.1?}: {}", self.held, self.cause)?;
        if let Some(session) = &self.session {
            write!(
                f,
                " (process {} {} for {:.1?}",
                session.backend_pid, session.state, session.for_long
            )?;
            if let Some(waits_for) = &session.waits_for {
                write!(f, ", waits for {waits_for}")?;
            }
            if let Some(statement) = &session.statement {
                write!(f, ", {}", statement.summary())?;
            }
            if !session.blocked_by.is_empty() {
                write!(f, ", blocked by {:?}", session.blocked_by)?;
            }
            if !session.blocks.is_empty() {
                write!(f, ", blocks {:?}", session.blocks)?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// A lease that was taken back from its holder, who is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease was revoked after {held:.1?} ({cause}); it was asked for by {}", At(*site, *statement))]
#[non_exhaustive]
pub struct LeaseRevoked {
    /// Where it was asked for.
    pub site: Option<&'static Location<'static>>,
    /// The statement that it was asked for, if the stack runs it.
    pub statement: Option<Fingerprint>,
    /// How long it had been out.
    pub held: Duration,
    /// Why it was out.
    pub cause: LeaseCause,
}

impl LeaseRevoked {
    /// What is left to say of a suspect whose lease is taken back.
    pub fn of(suspect: &Suspect) -> Self {
        Self {
            site: suspect.site,
            statement: suspect.statement,
            held: suspect.held,
            cause: suspect.cause,
        }
    }
}
