//! What has been counted, as plain data. Counters are read one by one: under load, sums may be off by the calls of that
//! moment.

use crate::books::ATTEMPTS;
use db_core::{GaveUp, RetryCause};
use std::time::Duration;

/// What a [`RetryPolicy`](crate::RetryPolicy) has counted since it was made. A layer that is `off` counts nothing;
/// transactions are counted in any mode.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryStats {
    /// Calls that have ended, by their number of attempts: the first field is one attempt, the last is ten or more.
    pub attempts: [u64; ATTEMPTS],
    /// Calls that ended with an error that no retry can help.
    pub failed: u64,
    /// Calls that the caller dropped.
    pub abandoned: u64,
    pub(crate) gave_up: [u64; GaveUp::ALL.len()],
    /// Every cause, in the order of [`RetryCause::index`].
    pub causes: [CauseStats; RetryCause::ALL.len()],
    /// The retries that the budget holds.
    pub budget: f64,
    /// Whole transactions.
    pub transactions: TransactionStats,
}

impl RetryStats {
    /// All calls that have ended.
    pub fn calls(&self) -> u64 {
        self.attempts.iter().sum()
    }

    /// Calls that ended well, at whichever attempt.
    pub fn succeeded(&self) -> u64 {
        let other = self.failed + self.abandoned + self.gave_up.iter().sum::<u64>();
        self.calls().saturating_sub(other)
    }

    /// Calls that failed for a passing reason and were not repeated (any more).
    pub fn gave_up(&self, reason: GaveUp) -> u64 {
        self.gave_up[reason.index()]
    }

    /// One cause.
    pub fn cause(&self, cause: RetryCause) -> CauseStats {
        self.causes[cause.index()]
    }

    /// Retries for any cause, those of transactions included.
    pub fn retries(&self) -> u64 {
        self.causes.iter().map(|cause| cause.retries).sum()
    }
}

/// Retries for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CauseStats {
    /// Which one.
    pub cause: RetryCause,
    /// Attempts that were repeated for it, in calls and transactions.
    pub retries: u64,
    /// Calls that ended well after a last retry for it.
    pub recovered: u64,
    /// Attempts that would have been repeated for it, in observe mode.
    pub would_retry: u64,
}

/// Whole transactions, as their driver reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionStats {
    /// Committed.
    pub committed: u64,
    /// Rolled back since their body wanted it.
    pub rolled_back: u64,
    /// Failed for good.
    pub failed: u64,
    /// Of these, those that ran into a limit of ours or of the server.
    pub timed_out: u64,
    /// COMMIT was sent, and nobody knows what became of it.
    pub unknown: u64,
    /// Dropped by the caller, and therefore rolled back.
    pub abandoned: u64,
    /// Attempts that ended in a deadlock.
    pub deadlocks: u64,
    /// Attempts that ended in a serialization failure.
    pub serialization_failures: u64,
    /// Attempts whose connection broke.
    pub connection_losses: u64,
    /// Ended transactions by their number of attempts: the first field is one attempt, the last is ten or more.
    pub attempts: [u64; ATTEMPTS],
    /// How long they took over all attempts; all but the abandoned ones. `None` before the first one.
    pub durations: Option<Durations>,
}

impl TransactionStats {
    /// All that have ended.
    pub fn ended(&self) -> u64 {
        self.attempts.iter().sum()
    }
}

/// How long transactions took, to within 1 % and 1 us; longer than an hour counts as an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Durations {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}
