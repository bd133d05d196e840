//! The table: what each error says about what happened, and whether another try could help.

use super::{Fate, Situation};
use db_core::{
    AcquireError, AcquireFailure, Error, RetryCause as Cause, Sent, SqlState, SqlStateClass, TransactionAborted,
};
use std::io;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) fate: Fate,
    pub(super) hope: Hope,
    /// Whether the hope holds for writes.
    pub(super) for_writes: bool,
    /// Whether the hope holds for a transaction as a whole.
    pub(super) for_transactions: bool,
    pub(super) at_commit: AtCommit,
    /// The server has answered, and the client made nothing of the answer.
    pub(super) answered: bool,
    /// Nobody will ever know, and not even a read is worth a try.
    pub(super) unknowable: bool,
}

/// Whether another try could help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hope {
    Never,
    Once(Cause),
    Backoff(Cause),
}

/// What the error means when it answers COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtCommit {
    /// Rolled back, and worth a try.
    RolledBack,
    /// Rolled back for good.
    Final,
    /// Nobody knows.
    Unknown,
}

impl Finding {
    fn new(fate: Fate, hope: Hope, at_commit: AtCommit) -> Self {
        let (for_writes, for_transactions) = (true, true);
        Self {
            fate,
            hope,
            for_writes,
            for_transactions,
            at_commit,
            answered: false,
            unknowable: false,
        }
    }

    /// Nothing was sent, so this can't be the answer to COMMIT; if somebody says it is, nobody knows.
    fn not_sent(hope: Hope) -> Self {
        Self::new(Fate::NotSent, hope, AtCommit::Unknown)
    }

    fn rejected(hope: Hope) -> Self {
        Self::new(Fate::Rejected, hope, AtCommit::Final)
    }

    fn may_have_run(hope: Hope) -> Self {
        Self::new(Fate::MayHaveRun, hope, AtCommit::Unknown)
    }

    fn unknowable() -> Self {
        Self {
            unknowable: true,
            ..Self::may_have_run(Hope::Never)
        }
    }

    fn answered() -> Self {
        Self {
            answered: true,
            ..Self::may_have_run(Hope::Never)
        }
    }

    fn reads_only(self) -> Self {
        Self {
            for_writes: false,
            ..self
        }
    }

    fn not_for_transactions(self) -> Self {
        Self {
            for_transactions: false,
            ..self
        }
    }

    fn at_commit_is(self, at_commit: AtCommit) -> Self {
        Self { at_commit, ..self }
    }
}

/// An error message of the server, as far as the table looks at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection<'a> {
    pub(super) state: SqlState,
    pub(super) fatal: bool,
    pub(super) routine: Option<&'a str>,
    pub(super) message: &'a str,
}

pub(super) fn finding(error: &Error, situation: &Situation) -> Finding {
    match error {
        Error::Server(server) => of_rejection(
            Rejection {
                state: server.state(),
                fatal: server.is_fatal(),
                routine: server.routine(),
                message: server.database_error().message(),
            },
            situation,
        ),
        Error::Network { sent: Sent::No, source } => of_connect_failure(source),
        Error::Network { sent: Sent::Maybe, .. } => Finding::may_have_run(Hope::Backoff(Cause::ConnectionLost)),
        Error::Acquire(acquire) => of_acquire(acquire),
        // Shed: whoever comes back at once feeds what it was shed for. `retry_after` is for the caller.
        Error::Breaker(_) => Finding::not_sent(Hope::Never),
        Error::Timeout(timeout) if timeout.sent == Sent::No => Finding::not_sent(Hope::Never),
        // No time is left, and a statement that was too slow would be too slow again.
        Error::Timeout(_) => Finding::may_have_run(Hope::Never),
        Error::Aborted(TransactionAborted::StatementFailed(state)) => of_aborted(*state, situation),
        Error::Aborted(_) => Finding::rejected(Hope::Never),
        Error::CommitUnknown { .. } => Finding::unknowable(),
        Error::Config(_) | Error::Causal(_) => Finding::not_sent(Hope::Never),
        Error::Client(source) => of_client_error(source),
        // An error of a later version: nothing is known about it.
        _ => Finding::may_have_run(Hope::Never),
    }
}

fn of_connect_failure(source: &sqlx::Error) -> Finding {
    match source {
        // Certificates and names do not change from one moment to the next.
        sqlx::Error::Tls(_) => Finding::not_sent(Hope::Never),
        sqlx::Error::Io(io) if is_own_shortage(io) => Finding::not_sent(Hope::Never),
        _ => Finding::not_sent(Hope::Backoff(Cause::NotConnected)),
    }
}

fn of_acquire(acquire: &AcquireError) -> Finding {
    match (&acquire.failure, &acquire.cause) {
        (AcquireFailure::Down, Some(cause)) => of_connect_failure(&cause.source),
        (AcquireFailure::Down | AcquireFailure::NoPrimary, _) => Finding::not_sent(Hope::Backoff(Cause::NotConnected)),
        (AcquireFailure::TooManyConnections, _) => Finding::not_sent(Hope::Backoff(Cause::Overload)),
        // Shed, or refused for good: a retry from inside would feed what it was shed for.
        _ => Finding::not_sent(Hope::Never),
    }
}

/// Out of file descriptors or local ports: more attempts need more of them.
fn is_own_shortage(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// COMMIT was answered with ROLLBACK, or was not even sent: the statement's own error says whether to run all again.
fn of_aborted(state: SqlState, situation: &Situation) -> Finding {
    let rejection = Rejection {
        state,
        fatal: false,
        routine: None,
        message: "",
    };
    let found = of_rejection(rejection, situation);
    Finding {
        fate: Fate::Rejected,
        at_commit: AtCommit::RolledBack,
        unknowable: false,
        ..found
    }
}

fn of_client_error(source: &sqlx::Error) -> Finding {
    use sqlx::Error as E;
    match source {
        E::PoolTimedOut | E::PoolClosed | E::Configuration(_) | E::Encode(_) | E::InvalidArgument(_) => {
            Finding::not_sent(Hope::Never)
        }
        // The server has done its part: a row that was not there, a value that did not decode.
        _ => Finding::answered(),
    }
}

pub(super) fn of_rejection(rejection: Rejection<'_>, situation: &Situation) -> Finding {
    let found = of_state(rejection, situation);
    let dropped = rejection.state == SqlState::DatabaseDropped;
    if rejection.fatal && found.fate == Fate::Rejected && !dropped {
        // FATAL ends the session, perhaps after the commit (a backend that waits for its standby has committed).
        return Finding {
            fate: Fate::MayHaveRun,
            at_commit: AtCommit::Unknown,
            ..found
        };
    }
    found
}

fn of_state(rejection: Rejection<'_>, situation: &Situation) -> Finding {
    use Hope::{Backoff, Never, Once};
    use SqlState as S;
    let Rejection {
        state, fatal, routine, ..
    } = rejection;
    match state {
        S::SerializationFailure | S::DeadlockDetected if situation.standby => Finding::rejected(Once(Cause::Standby)),
        S::SerializationFailure => {
            Finding::rejected(Backoff(Cause::SerializationFailure)).at_commit_is(AtCommit::RolledBack)
        }
        S::DeadlockDetected => Finding::rejected(Backoff(Cause::Deadlock)).at_commit_is(AtCommit::RolledBack),
        state if state.is_ambiguous() => Finding::unknowable(),
        S::LockNotAvailable if situation.lock_timeouts => Finding::rejected(Backoff(Cause::LockTimeout)),
        S::SnapshotTooOld => Finding::rejected(Backoff(Cause::Snapshot)).reads_only(),

        // Before anything was sent, or the session had ended by then.
        S::TooManyConnections => Finding::not_sent(Backoff(Cause::Overload)),
        S::CannotConnectNow | S::CannotConnect | S::ConnectionRejected => {
            Finding::not_sent(Backoff(Cause::NotConnected))
        }
        state if fatal && state.is_configuration_fault() => Finding::not_sent(Never),
        // Raised only while the session waits for a statement: ours was never read.
        S::IdleSessionTimeout | S::IdleInTransactionTimeout => {
            Finding::not_sent(Once(Cause::Session)).not_for_transactions()
        }

        // The session ended under the statement.
        S::AdminShutdown
        | S::CrashShutdown
        | S::ConnectionException
        | S::ConnectionDoesNotExist
        | S::ConnectionFailure => Finding::may_have_run(Backoff(Cause::ConnectionLost)),
        S::TransactionTimeout => Finding::may_have_run(Once(Cause::Session)).not_for_transactions(),
        S::ProtocolViolation => of_protocol_violation(rejection, situation),

        // Refused before it did anything, for a reason that another connection does not have.
        S::ReadOnlyTransaction if situation.read_only => Finding::rejected(Never),
        // Not at once: the source first finds out whether the address leads elsewhere by now.
        S::ReadOnlyTransaction => Finding::rejected(Backoff(Cause::WrongNode)),
        S::InFailedTransaction => Finding::rejected(Once(Cause::Session)).not_for_transactions(),
        S::DuplicatePreparedStatement | S::InvalidStatementName => Finding::rejected(Once(Cause::LostPlan)),
        state if state.is_stale_plan(routine) => Finding::rejected(Once(Cause::StalePlan)),
        S::UndefinedTable | S::UndefinedColumn if situation.standby => Finding::rejected(Once(Cause::Standby))
            .reads_only()
            .not_for_transactions(),

        // One try, for a read: what was too much at that moment may not be in the next.
        S::OutOfMemory | S::InsufficientResources => {
            let hope = if situation.attempt <= 1 {
                Backoff(Cause::Overload)
            } else {
                Never
            };
            Finding::rejected(hope).reads_only().not_for_transactions()
        }

        // Definite in a statement; at COMMIT it may have struck on either side of the commit.
        S::QueryCanceled => Finding::rejected(Never).at_commit_is(AtCommit::Unknown),
        state => match state.class() {
            SqlStateClass::SystemError | SqlStateClass::InternalError | SqlStateClass::ConfigFile => {
                Finding::rejected(Never).at_commit_is(AtCommit::Unknown)
            }
            _ => Finding::rejected(Never),
        },
    }
}

/// 08P01: out of step, perhaps hostile; or, with a pooler before the server, what PgBouncer says of itself.
fn of_protocol_violation(rejection: Rejection<'_>, situation: &Situation) -> Finding {
    // PgBouncer 1.x: the first three are said to clients that wait for a server, so nothing was forwarded.
    const WAITED: [&str; 3] = ["query_wait_timeout", "server login failed", "pgbouncer cannot connect"];
    const CLOSING: &str = "shutting down";
    let says = |text: &str| rejection.message.contains(text);
    if !(situation.pooler && rejection.fatal) {
        return Finding::may_have_run(Hope::Never);
    }
    if WAITED.into_iter().any(says) {
        Finding::not_sent(Hope::Backoff(Cause::Overload))
    } else if says(CLOSING) {
        Finding::may_have_run(Hope::Backoff(Cause::Overload))
    } else {
        Finding::may_have_run(Hope::Never)
    }
}
