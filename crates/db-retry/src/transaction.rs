//! Whether a failed transaction runs again. Decisions only: beginning, committing and sleeping are the driver's.

use crate::{
    classify::{Effect, Phase, Situation, Verdict, decide},
    course::{Again, Circumstances, Course},
    policy::{RetryPolicy, Shared},
    transaction_books::{Mishap, Outcome},
};
use db_core::{Call, Error, Event, GaveUp, QueryClass, RetryCause, SqlState};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What a driver does after a failed attempt. The transaction of that attempt is rolled back, or its connection gone,
/// before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run the whole transaction again after this pause, on any connection.
    Rerun {
        /// Why.
        cause: RetryCause,
        /// The pause; may be zero.
        after: Duration,
    },
    /// Return the error.
    Fail(Why),
    /// Return an error that says that the transaction may have been committed.
    Unknown,
}

/// Why a transaction does not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No retry can help, or retries are off.
    Final,
    /// One could, but there is none.
    GaveUp(GaveUp),
}

/// The attempts of one transaction, for whoever drives it. Made by [`RetryPolicy::transaction`].
///
/// Says when to run it again and counts how it went: one of [`committed`](Self::committed),
/// [`rolled_back`](Self::rolled_back) or an answer of [`on_failure`](Self::on_failure) other than [`Next::Rerun`] ends it;
/// dropped before, it was abandoned.
///
/// ```
/// use db_core::{Call, Error};
/// use db_retry::{Next, RetryPolicy};
/// use tokio::time::{Instant, sleep};
///
/// # async fn attempt() -> Result<u32, Error> { Ok(1) }
/// # async fn example(policy: RetryPolicy) -> Result<u32, Error> {
/// let mut retry = policy.transaction(&Call::here());
/// loop {
///     let commit_sent = false; // as the driver knows it
///     match attempt().await {
///         Ok(value) => {
///             retry.committed();
///             return Ok(value);
///         }
///         Err(error) => match retry.on_failure(&error, commit_sent, Instant::now(), None) {
///             Next::Rerun { after, .. } => sleep(after).await,
///             Next::Fail(_) => return Err(error),
///             Next::Unknown => return Err(Error::CommitUnknown { source: Box::new(error) }),
///         },
///     }
/// }
/// # }
/// ```
#[must_use = "a transaction that is dropped counts as abandoned"]
pub struct TransactionRetry {
    shared: Arc<Shared>,
    course: Course,
    class: QueryClass,
    attempt: u32,
    max_attempts: Option<u32>,
    rerunnable: bool,
    read_only: bool,
    started: Instant,
    open: bool,
}

impl RetryPolicy {
    /// Counts one transaction and decides about its attempts, from now on.
    pub fn transaction(&self, call: &Call) -> TransactionRetry {
        self.shared.budget().deposit();
        TransactionRetry {
            shared: Arc::clone(&self.shared),
            course: Course::default(),
            class: call.class,
            attempt: 1,
            max_attempts: None,
            rerunnable: true,
            read_only: false,
            started: Instant::now(),
            open: true,
        }
    }
}

impl TransactionRetry {
    /// At most so many attempts, the first one included, instead of the policy's; 0 counts as 1.
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts.max(1));
        self
    }

    /// Its body can't be called twice.
    pub fn run_once(mut self) -> Self {
        self.rerunnable = false;
        self
    }

    /// It is read-only by its own wish: a refusal to write is about its statement, not about the node.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The attempt that runs, or has failed last; counted from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// An attempt has failed: getting a connection, BEGIN, a statement, or COMMIT, which is when `commit_sent` is true.
    ///
    /// Runs again what the server has definitely rolled back for a passing reason, and, as long as COMMIT was not sent,
    /// what broke off or never began. The budget is asked last; at the deadline, or after it, nothing runs again.
    pub fn on_failure(&mut self, error: &Error, commit_sent: bool, now: Instant, deadline: Option<Instant>) -> Next {
        self.count(error);
        let settings = self.shared.settings();
        let config = &settings.config;
        let phase = if commit_sent {
            Phase::Commit
        } else {
            Phase::InTransaction
        };
        let situation = Situation {
            replayable: self.rerunnable,
            read_only: self.read_only,
            attempt: self.attempt,
            pooler: config.pooler,
            lock_timeouts: config.lock_timeouts,
            ..Situation::new(Effect::Write, phase)
        };
        let verdict = decide(error, &situation);
        if verdict == Verdict::Ambiguous {
            self.tell_gave_up(GaveUp::NotSafe, error.sqlstate());
            self.end(Outcome::Unknown);
            return Next::Unknown;
        }
        let (state, retry_after) = (error.sqlstate(), error.retry_after());
        drop(settings);
        self.decide(verdict, retry_after, state, is_timeout(error), now, deadline)
    }

    /// An attempt has failed for this cause, as the driver knows from elsewhere than an error at hand; nothing of it has
    /// been committed, or running it again does no harm.
    pub fn on_cause(
        &mut self,
        cause: RetryCause,
        state: Option<SqlState>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Next {
        if cause == RetryCause::ConnectionLost {
            self.shared.books.transactions.mishap(Mishap::ConnectionLost);
        }
        let verdict = if self.rerunnable {
            Verdict::RerunTransaction(cause)
        } else {
            Verdict::Never
        };
        self.decide(verdict, None, state, false, now, deadline)
    }

    fn decide(
        &mut self,
        verdict: Verdict,
        retry_after: Option<Duration>,
        state: Option<SqlState>,
        timed_out: bool,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Next {
        let mode = self.shared.settings().config.mode;
        // Whoever asks for attempts means this transaction, whatever its class.
        let verdict = match self.max_attempts {
            Some(_) => verdict,
            None => self.shared.allowed(verdict, self.class),
        };
        let circumstances = Circumstances {
            verdict,
            retry_after,
            failed: self.attempt,
            max_attempts: self
                .max_attempts
                .unwrap_or_else(|| self.shared.settings().config.max_attempts),
            now,
            deadline,
            observe: !mode.enforces(),
        };
        let decided = if mode.is_off() {
            Ok(None)
        } else {
            self.course.decide(&self.shared, circumstances)
        };
        let why = match decided {
            Ok(Some(again)) if mode.enforces() => return self.rerun(again, state),
            Ok(Some(again)) => {
                self.observed(again, state);
                Why::Final
            }
            Ok(None) => Why::Final,
            Err(reason) => {
                self.tell_gave_up(reason, state);
                Why::GaveUp(reason)
            }
        };
        self.end(Outcome::Failed { timed_out });
        Next::Fail(why)
    }

    /// COMMIT was answered.
    pub fn committed(&mut self) {
        self.end(Outcome::Committed);
    }

    /// The body wanted it undone, and it was.
    pub fn rolled_back(&mut self) {
        self.end(Outcome::RolledBack);
    }

    /// COMMIT was sent, and nobody will hear what became of it.
    pub fn unknown(&mut self) {
        self.end(Outcome::Unknown);
    }

    fn count(&self, error: &Error) {
        let mishap = match (error, state_of(error)) {
            (_, Some(SqlState::DeadlockDetected)) => Mishap::Deadlock,
            (_, Some(SqlState::SerializationFailure)) => Mishap::Serialization,
            (Error::Network { .. }, _) => Mishap::ConnectionLost,
            (_, Some(state)) if state.is_shutdown() => Mishap::ConnectionLost,
            _ => return,
        };
        self.shared.books.transactions.mishap(mishap);
    }

    fn rerun(&mut self, again: Again, state: Option<SqlState>) -> Next {
        let (Again { cause, wait }, attempt, class) = (again, self.attempt, self.class);
        self.shared.books.retried(cause);
        self.shared.observers.tell(|| Event::Retried {
            cause,
            state,
            attempt,
            wait,
            class,
            statement: None,
        });
        self.attempt = self.attempt.saturating_add(1);
        Next::Rerun { cause, after: wait }
    }

    fn observed(&self, again: Again, state: Option<SqlState>) {
        let (Again { cause, wait }, attempt, class) = (again, self.attempt, self.class);
        self.shared.books.would_retry(cause);
        self.shared.observers.tell(|| Event::WouldRetry {
            cause,
            state,
            attempt,
            wait,
            class,
            statement: None,
        });
    }

    fn tell_gave_up(&self, reason: GaveUp, state: Option<SqlState>) {
        let (attempts, class) = (self.attempt, self.class);
        self.shared.observers.tell(|| Event::RetryGaveUp {
            reason,
            state,
            attempts,
            class,
            statement: None,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        if self.open {
            self.open = false;
            self.shared
                .books
                .transactions
                .end(outcome, self.attempt, self.started.elapsed());
        }
    }
}

/// A limit of ours or of the server.
fn is_timeout(error: &Error) -> bool {
    match error {
        Error::Timeout(_) => true,
        Error::Acquire(acquire) => acquire.failure == db_core::AcquireFailure::TimedOut,
        error => matches!(
            state_of(error),
            Some(SqlState::QueryCanceled | SqlState::TransactionTimeout)
        ),
    }
}

/// The SQLSTATE of the failure, also when it is that of an earlier statement.
fn state_of(error: &Error) -> Option<SqlState> {
    match error {
        Error::Aborted(db_core::TransactionAborted::StatementFailed(state)) => Some(*state),
        error => error.sqlstate(),
    }
}

impl Drop for TransactionRetry {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

impl fmt::Debug for TransactionRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionRetry")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
