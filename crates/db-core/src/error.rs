//! One error for the whole stack, lossless both ways with [`sqlx::Error`].

mod causal;
mod timeout;

pub use causal::CausalError;
pub use timeout::{LimitOrigin, TimeoutError};

use crate::{
    BreakerOpen, Fingerprint, LeaseRevoked, NeedsSession, Priority, QueryClass, ShedReason, SqlState, suspect::At,
};
use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};
use std::{fmt, io, panic::Location, sync::Arc, time::Duration};

/// The stack's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, told apart by what is known to have happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server said no: the statement, and the transaction it was in, had no effect.
    #[error(transparent)]
    Server(#[from] ServerError),

    /// The wire broke.
    #[error("connection lost {sent}: {source}")]
    Network {
        /// What the server may have seen.
        sent: Sent,
        /// The driver's error.
        #[source]
        source: Box<sqlx::Error>,
    },

    /// No lease was to be had.
    #[error(transparent)]
    Acquire(Box<AcquireError>),

    /// The call passed its limit; what it had in flight is being cancelled on the server.
    #[error(transparent)]
    Timeout(Box<TimeoutError>),

    /// The endpoint has failed too often: the call was not sent.
    #[error(transparent)]
    Breaker(#[from] BreakerOpen),

    /// The transaction can't be committed.
    #[error(transparent)]
    Aborted(#[from] TransactionAborted),

    /// The lease was taken back from its holder, who had it for too long; what ran on it may have taken effect.
    #[error(transparent)]
    Revoked(Box<LeaseRevoked>),

    /// COMMIT was sent and its answer never came: the transaction may have been committed.
    #[error("the outcome of COMMIT is unknown: {source}")]
    CommitUnknown {
        /// Why the answer never came.
        #[source]
        source: Box<Error>,
    },

    /// A position that the call must have seen can't be honoured.
    #[error(transparent)]
    Causal(#[from] CausalError),

    /// It needs a session of its own, and a transaction pooler stands before the server. Nothing was sent.
    #[error(transparent)]
    NeedsSession(#[from] NeedsSession),

    /// Settings that can't be used.
    #[error(transparent)]
    Config(#[from] crate::config::InvalidConfig),

    /// Any other error of the driver: a row that was not there, a value that did not decode, an argument that did
    /// not encode.
    #[error(transparent)]
    Client(sqlx::Error),
}

/// An error message of the server.
#[derive(Debug)]
pub struct ServerError {
    state: SqlState,
    fatal: bool,
    source: Box<dyn DatabaseError>,
}

impl ServerError {
    /// The SQLSTATE.
    pub fn state(&self) -> SqlState {
        self.state
    }

    /// FATAL or PANIC: the server has ended the session.
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// The server's routine that raised the error, where the server said.
    pub fn routine(&self) -> Option<&str> {
        self.source
            .try_downcast_ref::<PgDatabaseError>()
            .and_then(PgDatabaseError::routine)
    }

    /// The driver's error.
    pub fn database_error(&self) -> &dyn DatabaseError {
        &*self.source
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.source.message(), self.state)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_error())
    }
}

impl From<Box<dyn DatabaseError>> for ServerError {
    fn from(source: Box<dyn DatabaseError>) -> Self {
        let postgres = source.try_downcast_ref::<PgDatabaseError>();
        Self {
            state: SqlState::from_code(source.code().as_deref().unwrap_or_default()),
            fatal: postgres.is_some_and(|e| matches!(e.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
            source,
        }
    }
}

/// What the server may have seen of a statement when the wire broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing: it did not run.
    No,
    /// Perhaps all of it: it may have run.
    Maybe,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "before the statement was sent",
            Self::Maybe => "after the statement may have run",
        })
    }
}

/// Why there was no lease.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct AcquireError {
    /// The reason.
    pub failure: AcquireFailure,
    /// How long the caller waited.
    pub waited: Duration,
    /// Where it asked, where that helps to understand the failure.
    pub site: Option<&'static Location<'static>>,
    /// Connections open at that moment, leased or idle.
    pub size: u32,
    /// The most connections that the pool may open.
    pub max: u32,
    /// Callers that were still waiting.
    pub waiting: u32,
    /// The longest holders of a lease, longest first; at most 5.
    pub holders: Vec<Holder>,
    /// The last failed attempt to open a connection, if the pool could not grow for that reason.
    #[source]
    pub cause: Option<Arc<ConnectFailure>>,
    /// How long another try is useless, where that is known.
    pub retry_after: Option<Duration>,
}

impl AcquireError {
    /// An error with nothing known but its reason.
    pub fn new(failure: AcquireFailure, waited: Duration) -> Self {
        Self {
            failure,
            waited,
            site: None,
            size: 0,
            max: 0,
            waiting: 0,
            holders: Vec::new(),
            cause: None,
            retry_after: None,
        }
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")?;
        if let Some(site) = self.site {
            write!(f, " for {}:{}", site.file(), site.line())?;
        }
        write!(f, " after {:?}: {}", self.waited, self.failure)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        let busy = matches!(
            self.failure,
            AcquireFailure::TimedOut | AcquireFailure::QueueFull | AcquireFailure::Shed(_)
        );
        if busy {
            write!(
                f,
                " ({} of {} connections open, {} callers waiting)",
                self.size, self.max, self.waiting
            )?;
        }
        if matches!(
            self.failure,
            AcquireFailure::TimedOut | AcquireFailure::QueueFull | AcquireFailure::Nested
        ) {
            for (i, holder) in self.holders.iter().enumerate() {
                write!(f, "{}{holder}", if i == 0 { "; held by " } else { ", " })?;
            }
        }
        if let Some(wait) = self.retry_after {
            write!(f, "; try again in {wait:.1?}")?;
        }
        Ok(())
    }
}

/// The reason why there was no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireFailure {
    /// Every connection stayed in use until the caller's limit.
    #[error("the pool is exhausted")]
    TimedOut,
    /// As many callers are waiting as may wait.
    #[error("the queue for connections is full")]
    QueueFull,
    /// Sent away in an overload, so that others are served in time.
    #[error("{}", match .0 {
        ShedReason::Deadline => "it could not have been served before its deadline",
        ShedReason::Standing => "the queue for connections was standing, and it had waited for as long as it may then",
        ShedReason::Displaced => "the queue for connections is full, and a more urgent call took its place",
    })]
    Shed(ShedReason),
    /// The server can't be reached or does not answer.
    #[error("the database is down")]
    Down,
    /// The server has no room for another connection (SQLSTATE 53300).
    #[error("the server has too many connections")]
    TooManyConnections,
    /// The server refuses this user, password, database or encryption; trying again would not help.
    #[error("the server refuses the connection settings")]
    Refused,
    /// The pool is closed or closing.
    #[error("the pool is closed")]
    Closed,
    /// The caller's own task holds a lease, uses it for nothing and waits for another one of an exhausted pool: when
    /// every holder does so, all wait for ever.
    #[error("its task holds a lease already, and the pool is exhausted")]
    Nested,
    /// No replica can serve the read, and the share of the primary that such reads may have is in use.
    #[error("no replica can serve, and the primary's share for reads is in use")]
    NoReplica,
    /// The primary is gone or of an older timeline than others have seen, and no other node takes writes.
    #[error("no node is known to be the primary")]
    NoPrimary,
    /// The server has no such database for a tenant, or refuses it; others are served.
    #[error("the server refuses the tenant's database")]
    NoDatabase,
}

/// A failed attempt to open a connection, shared by all callers that it concerns.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ConnectFailure {
    /// What it means for an acquire.
    pub failure: AcquireFailure,
    /// The driver's error.
    #[source]
    pub source: sqlx::Error,
}

impl ConnectFailure {
    /// Classifies the driver's error.
    pub fn new(source: sqlx::Error) -> Self {
        let failure = match &source {
            sqlx::Error::Database(error) => match SqlState::from_code(error.code().as_deref().unwrap_or_default()) {
                SqlState::TooManyConnections => AcquireFailure::TooManyConnections,
                state if state.is_configuration_fault() => AcquireFailure::Refused,
                _ => AcquireFailure::Down,
            },
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => AcquireFailure::Refused,
            _ => AcquireFailure::Down,
        };
        Self { failure, source }
    }

    /// Whether another attempt with the same settings may succeed.
    pub fn is_transient(&self) -> bool {
        self.failure != AcquireFailure::Refused
    }
}

/// Who holds a lease.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// Where the lease was asked for.
    pub site: Option<&'static Location<'static>>,
    /// The statement that it was asked for, if the stack runs it.
    pub statement: Option<Fingerprint>,
    /// The class of the call.
    pub class: QueryClass,
    /// How urgent the call is.
    pub priority: Priority,
    /// How long it has been held.
    pub held: Duration,
    /// The server's process for it, once known.
    pub backend_pid: Option<i32>,
}

impl Holder {
    /// A holder of which nothing more is known.
    pub fn new(class: QueryClass, held: Duration) -> Self {
        Self {
            site: None,
            statement: None,
            class,
            priority: Priority::default(),
            held,
            backend_pid: None,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}", At(self.site, self.statement), self.held)
    }
}

/// Why a transaction can't be committed. It has been, or will be, rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionAborted {
    /// A statement in it failed and was not rolled back to a savepoint: the server would answer COMMIT with ROLLBACK.
    #[error("the transaction is aborted: a statement in it failed ({0}); nothing was committed")]
    StatementFailed(SqlState),
    /// A statement in it was dropped half-way, so that its effect is unknown.
    #[error("the transaction is aborted: a statement in it was cancelled; nothing was committed")]
    StatementCancelled,
    /// It ended on the server without our COMMIT or ROLLBACK.
    #[error("the transaction was ended by a statement inside it; nothing more was committed")]
    EndedInside,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(source) => Self::Server(source.into()),
            sqlx::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                match io.into_inner().map(|inner| inner.downcast::<Error>()) {
                    Some(Ok(own)) => *own,
                    _ => unreachable!("checked by the guard"),
                }
            }
            source @ (sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed) => Self::Network {
                sent: Sent::Maybe,
                source: Box::new(source),
            },
            source @ sqlx::Error::Tls(_) => Self::Network {
                sent: Sent::No,
                source: Box::new(source),
            },
            other => Self::Client(other),
        }
    }
}

/// Own variants travel inside [`sqlx::Error::Io`], since a caller that knows only sqlx must treat them as such:
/// no row was read, and another try may succeed. [`Error::from`] finds them again.
impl From<Error> for sqlx::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(ServerError { source, .. }) => Self::Database(source),
            Error::Client(source) => source,
            own => {
                let kind = own.io_kind();
                Self::Io(io::Error::new(kind, own))
            }
        }
    }
}

impl Error {
    /// The SQLSTATE, when the server said no.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Server(server) => Some(server.state),
            _ => None,
        }
    }

    /// The stack's error inside a driver's error, without taking it.
    pub fn find(error: &sqlx::Error) -> Option<&Self> {
        match error {
            sqlx::Error::Io(io) => io.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Network { source, .. } => match &**source {
                sqlx::Error::Io(io) => io.kind(),
                _ => io::ErrorKind::InvalidData,
            },
            Self::Acquire(acquire) => match acquire.failure {
                AcquireFailure::TimedOut => io::ErrorKind::TimedOut,
                AcquireFailure::QueueFull | AcquireFailure::Shed(_) | AcquireFailure::NoReplica => {
                    io::ErrorKind::QuotaExceeded
                }
                AcquireFailure::NoPrimary | AcquireFailure::Down | AcquireFailure::TooManyConnections => {
                    io::ErrorKind::ConnectionRefused
                }
                AcquireFailure::Refused => io::ErrorKind::PermissionDenied,
                AcquireFailure::NoDatabase => io::ErrorKind::NotFound,
                AcquireFailure::Closed => io::ErrorKind::NotConnected,
                AcquireFailure::Nested => io::ErrorKind::Deadlock,
            },
            Self::Timeout(_) => io::ErrorKind::TimedOut,
            Self::Revoked(_) => io::ErrorKind::ConnectionAborted,
            Self::NeedsSession(_) => io::ErrorKind::Unsupported,
            Self::Breaker(_) => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::Other,
        }
    }
}

impl From<AcquireError> for Error {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(Box::new(error))
    }
}

impl From<TimeoutError> for Error {
    fn from(error: TimeoutError) -> Self {
        Self::Timeout(Box::new(error))
    }
}

impl From<LeaseRevoked> for Error {
    fn from(error: LeaseRevoked) -> Self {
        Self::Revoked(Box::new(error))
    }
}
