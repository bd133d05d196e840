//! The counters behind the statistics.

use crate::{
    stats::{CauseStats, RetryStats, TransactionStats},
    transaction_books::TransactionBooks,
};
use db_core::{GaveUp, RetryCause};
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest row of attempts that is told apart; `max_attempts` is no more.
pub(crate) const ATTEMPTS: usize = 10;
const CAUSES: usize = RetryCause::ALL.len();

/// A row of counters.
pub(crate) struct Row<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Row<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Row<N> {
    pub(crate) fn add(&self, at: usize) {
        self.0[at.min(N - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> [u64; N] {
        std::array::from_fn(|at| self.get(at))
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    /// With an error that no retry can help.
    Failed,
    GaveUp(GaveUp),
    Abandoned,
}

#[derive(Default)]
pub(crate) struct Books {
    /// Ended calls by their number of attempts. A call that succeeds at once touches nothing else.
    attempts: Row<ATTEMPTS>,
    failed: AtomicU64,
    abandoned: AtomicU64,
    gave_up: Row<{ GaveUp::ALL.len() }>,
    retried: Row<CAUSES>,
    would_retry: Row<CAUSES>,
    recovered: Row<CAUSES>,
    pub(crate) transactions: TransactionBooks,
}

impl Books {
    pub(crate) fn retried(&self, cause: RetryCause) {
        self.retried.add(cause.index());
    }

    pub(crate) fn would_retry(&self, cause: RetryCause) {
        self.would_retry.add(cause.index());
    }

    /// A call has ended after so many attempts; `last` is the cause of the last retry.
    pub(crate) fn end(&self, ending: Ending, attempts: u32, last: Option<RetryCause>) {
        self.attempts.add(attempts.max(1) as usize - 1);
        match (ending, last) {
            (Ending::Succeeded, Some(cause)) => self.recovered.add(cause.index()),
            (Ending::Succeeded, None) => {}
            (Ending::Failed, _) => _ = self.failed.fetch_add(1, Ordering::Relaxed),
            (Ending::GaveUp(reason), _) => self.gave_up.add(reason.index()),
            (Ending::Abandoned, _) => _ = self.abandoned.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(crate) fn snapshot(&self, budget: f64) -> RetryStats {
        let cause = |cause: RetryCause| CauseStats {
            cause,
            retries: self.retried.get(cause.index()),
            recovered: self.recovered.get(cause.index()),
            would_retry: self.would_retry.get(cause.index()),
        };
        let transactions: TransactionStats = self.transactions.snapshot();
        RetryStats {
            attempts: self.attempts.all(),
            failed: self.failed.load(Ordering::Relaxed),
            abandoned: self.abandoned.load(Ordering::Relaxed),
            gave_up: self.gave_up.all(),
            causes: RetryCause::ALL.map(cause),
            budget,
            transactions,
        }
    }
}
