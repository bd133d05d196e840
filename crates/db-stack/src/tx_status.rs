//! What is known about a transaction without asking the server.

use db_core::{Error, LeaseState, SqlState, TransactionAborted};
use sqlx::postgres::PgDatabaseError;

/// How a statement in the transaction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server said no, and has aborted the transaction.
    Rejected(SqlState),
    /// The same, since a prepared plan was out of date or gone.
    StalePlan(SqlState),
    /// The connection broke, and with it the transaction.
    Lost,
}

impl Failure {
    /// Nothing where the error says nothing about the transaction.
    fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Database(error) => {
                let state = SqlState::from_code(error.code().as_deref().unwrap_or_default());
                let routine = error
                    .try_downcast_ref::<PgDatabaseError>()
                    .and_then(PgDatabaseError::routine);
                let stale = state.is_stale_plan(routine) || state == SqlState::DuplicatePreparedStatement;
                Some(if stale {
                    Self::StalePlan(state)
                } else {
                    Self::Rejected(state)
                })
            }
            // Ours travel as I/O errors: a limit has passed, for example.
            error if Error::find(error).is_some() => None,
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Some(Self::Lost),
            _ => None,
        }
    }

    fn state(self) -> Option<SqlState> {
        match self {
            Self::Rejected(state) | Self::StalePlan(state) => Some(state),
            Self::Lost => None,
        }
    }
}

/// What a dropped future has left in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// A statement: nobody knows how far it came.
    Statement,
    /// One of our own, which is as good as done: it is waited for.
    Bookkeeping,
}

/// The state of a transaction, as far as the client has seen it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Status {
    /// The first statement that failed; the server has aborted the transaction.
    pub(crate) failed: Option<Failure>,
    /// A failure that was rolled back to a savepoint, with nothing done since.
    pub(crate) undone: Option<Failure>,
    /// Something was dropped before it was answered.
    pub(crate) dropped: Option<Dropped>,
    /// sqlx may still have an answer to read.
    pub(crate) pending: bool,
    /// Something happened that was not seen: ask the server before COMMIT.
    pub(crate) unsure: bool,
    /// A statement may have left session state, which outlives the transaction.
    pub(crate) session: bool,
    /// What the connection needs before anybody else uses it.
    pub(crate) left: Option<LeaseState>,
}

impl Status {
    /// Whether COMMIT can do what it says.
    pub(crate) fn whole(self) -> Result<(), TransactionAborted> {
        match self {
            Self { dropped: Some(_), .. } => Err(TransactionAborted::StatementCancelled),
            Self {
                failed: Some(Failure::Rejected(state) | Failure::StalePlan(state)),
                ..
            } => Err(TransactionAborted::StatementFailed(state)),
            _ => Ok(()),
        }
    }

    /// In an aborted transaction only the statements that end it, or a part of it, succeed: what had failed has been
    /// rolled back to a savepoint, or all of it is over. The server knows.
    pub(crate) fn succeeded(&mut self) {
        self.unsure |= self.failed.take().is_some();
        self.undone = None;
        self.pending = false;
    }

    pub(crate) fn failed(&mut self, error: &sqlx::Error) {
        self.pending = true;
        match Failure::of(error) {
            Some(failure) => {
                self.failed.get_or_insert(failure);
                // Whether the server has seen what was lost is the server's to say.
                self.unsure |= failure == Failure::Lost;
                match failure {
                    Failure::StalePlan(_) => self.left = Some(LeaseState::StalePlans),
                    Failure::Rejected(state) if state.is_wrong_node() => self.left = Some(LeaseState::WrongNode),
                    Failure::Rejected(_) | Failure::Lost => {}
                }
            }
            None if matches!(error, sqlx::Error::RowNotFound | sqlx::Error::Encode(_)) => {}
            None => self.unsure = true,
        }
    }

    /// After a rollback to a savepoint, before which it was `before`.
    pub(crate) fn back_to(&mut self, before: Self) {
        *self = Self {
            undone: self.failed.or(self.undone),
            session: self.session,
            left: self.left,
            pending: self.pending,
            ..before
        };
    }

    /// The failure that ended the transaction's body, if it was one that was seen.
    pub(crate) fn trouble(self) -> Option<Failure> {
        self.failed.or(self.undone)
    }

    /// The state in which the transaction leaves its lease.
    pub(crate) fn leaves(self, read_only: bool) -> LeaseState {
        match self.left {
            // A transaction that was begun read-only says nothing about its node.
            Some(left) if !(read_only && left == LeaseState::WrongNode) => left,
            _ if self.session || self.unsure => LeaseState::Verify,
            _ => LeaseState::Clean,
        }
    }
}

impl From<Failure> for Option<SqlState> {
    fn from(failure: Failure) -> Self {
        failure.state()
    }
}
