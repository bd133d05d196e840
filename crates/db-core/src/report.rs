//! An ordinary call that is over, as those who watch every call are told of it.

use crate::{AcquireFailure, Call, Error, Spent, StatementFacts};
use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With an answer.
    Done,
    /// With an error.
    Failed(&'a Error),
    /// Its caller dropped it.
    Abandoned,
}

/// One call, or one statement of a transaction, that is over. Borrowed: told on the path of the call.
#[non_exhaustive]
pub struct CallReport<'a> {
    /// What the caller wished.
    pub call: &'a Call,
    /// What is known of its statement, when it was one.
    pub facts: Option<&'a Arc<StatementFacts>>,
    /// The statement's arguments, for those who were asked to show them. They may hold secrets.
    pub arguments: Option<&'a (dyn fmt::Debug + Sync)>,
    /// How it ended.
    pub outcome: Outcome<'a>,
    /// From the call to its end.
    pub took: Duration,
    /// The part of it that was spent waiting, and for what.
    pub spent: &'a Spent,
    /// How long it waited for its lease, where it got one and nobody was told yet.
    pub waited: Option<Duration>,
    /// How long it had its lease, where it gave one back and nobody was told yet.
    pub held: Option<Duration>,
    /// Whether it was a statement inside a transaction, on a lease that was there already.
    pub in_transaction: bool,
}

impl<'a> CallReport<'a> {
    /// A report with nothing known but the call, its end and its time.
    pub fn new(call: &'a Call, outcome: Outcome<'a>, took: Duration, spent: &'a Spent) -> Self {
        Self {
            call,
            facts: None,
            arguments: None,
            outcome,
            took,
            spent,
            waited: None,
            held: None,
            in_transaction: false,
        }
    }

    /// What the server, the network and the driver took: all that was not waiting.
    pub fn server(&self) -> Duration {
        self.took.saturating_sub(self.spent.total())
    }
}

impl fmt::Debug for CallReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the arguments.
        f.debug_struct("CallReport")
            .field("statement", &self.call.statement)
            .field("took", &self.took)
            .finish_non_exhaustive()
    }
}

impl Error {
    /// A short name of a bounded set: the SQLSTATE when the server said no, else the kind in snake case. This is
    /// OpenTelemetry's `error.type`.
    pub fn error_type(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Server(server) => return Cow::Owned(server.state().code().to_owned()),
            Self::Network { .. } => "connection_lost",
            Self::Acquire(acquire) => match acquire.failure {
                AcquireFailure::TimedOut => "pool_exhausted",
                AcquireFailure::QueueFull => "queue_full",
                AcquireFailure::Shed(_) => "shed",
                AcquireFailure::Down => "database_down",
                AcquireFailure::TooManyConnections => "too_many_connections",
                AcquireFailure::Refused => "connection_refused",
                AcquireFailure::Closed => "pool_closed",
                AcquireFailure::Nested => "nested_acquire",
                AcquireFailure::NoReplica => "no_replica",
                AcquireFailure::NoPrimary => "no_primary",
                AcquireFailure::NoDatabase => "no_database",
            },
            Self::Timeout(_) => "timeout",
            Self::Breaker(_) => "breaker_open",
            Self::Aborted(_) => "transaction_aborted",
            Self::Revoked(_) => "lease_revoked",
            Self::Causal(_) => "causal_read",
            Self::NeedsSession(_) => "needs_session",
            Self::CommitUnknown { .. } => "commit_unknown",
            Self::Config(_) => "config",
            Self::Client(sqlx::Error::RowNotFound) => "row_not_found",
            Self::Client(_) => "client",
        })
    }
}
