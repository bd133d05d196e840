//! What the layer has counted, as plain data.

use crate::{class::ClassLimits, ledger::Ledger, limit::Ending, limit::Findings};
use db_core::Fingerprint;
use hdrhistogram::Histogram;
use std::{fmt, sync::Arc, time::Duration};

/// Reads what a [`TimeoutLayer`](crate::TimeoutLayer) has counted. Cheap to clone; reading takes no more than a
/// microsecond for each class or statement and holds up no call for longer than that.
#[derive(Clone)]
pub struct TimeoutStats(pub(crate) Arc<Ledger>);

impl TimeoutStats {
    /// Every class, built in or custom, in the order of their limits in the configuration; last is `other`: custom
    /// classes that are not configured.
    pub fn classes(&self) -> Vec<ClassStats> {
        self.0.class_stats()
    }

    /// One statement, if it is still remembered.
    pub fn statement(&self, statement: Fingerprint) -> Option<StatementStats> {
        self.0
            .statements()
            .get(statement)
            .map(|tracked| tracked.stats(statement))
    }

    /// All statements that are remembered, those with the most timeouts first.
    pub fn statements(&self) -> Vec<StatementStats> {
        let mut all = self.0.statements().stats();
        all.sort_by_key(|s| (s.counts.timed_out, s.counts.calls(), s.statement));
        all.reverse();
        all
    }

    /// How many statements are remembered; at most `max_statements`.
    pub fn remembered(&self) -> usize {
        self.0.statements().len()
    }
}

impl fmt::Debug for TimeoutStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutStats")
            .field("remembered", &self.remembered())
            .finish_non_exhaustive()
    }
}

/// One class.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Its name.
    pub class: String,
    /// Its limits in force.
    pub limits: ClassLimits,
    /// Since the start.
    pub counts: Counts,
    /// Of the last one or two windows; `None` without a call in them.
    pub times: Option<Times>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StatementStats {
    /// Which one.
    pub statement: Fingerprint,
    /// What was learned, before it is brought within the bounds of a class; `None` as long as too little is known.
    pub learned: Option<Duration>,
    /// Since it was first seen, or seen again after it had been forgotten.
    pub counts: Counts,
    /// Of its last one or two windows; a rare statement's last hundred calls stay, however old.
    pub times: Option<Times>,
}

/// How calls ended. The first five are disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// With an answer.
    pub finished: u64,
    /// With an error that is not about time.
    pub failed: u64,
    /// Given up at their limit, here or by a layer below that keeps to the same deadline.
    pub timed_out: u64,
    /// Refused, since their limit had passed before they began.
    pub refused: u64,
    /// The caller stopped waiting.
    pub abandoned: u64,
    /// Passed a limit that is only observed.
    pub would_time_out: u64,
    /// Used more than `near_limit` of their limit.
    pub near_limit: u64,
    /// Took longer than their class's `alert`.
    pub slow: u64,
}

impl Counts {
    /// All calls.
    pub fn calls(&self) -> u64 {
        self.finished + self.failed + self.timed_out + self.refused + self.abandoned
    }

    /// The share of all calls that timed out or were refused for it, 0..=1; 0 without a call.
    pub fn timeout_rate(&self) -> f64 {
        (self.timed_out + self.refused) as f64 / self.calls().max(1) as f64
    }

    pub(crate) fn note(&mut self, ending: Ending, findings: &Findings) {
        *match ending {
            Ending::Finished | Ending::Streamed => &mut self.finished,
            Ending::Failed => &mut self.failed,
            Ending::TimedOut => &mut self.timed_out,
            Ending::Refused => &mut self.refused,
            Ending::Abandoned => &mut self.abandoned,
        } += 1;
        self.would_time_out += u64::from(findings.passed.is_some());
        self.near_limit += u64::from(findings.near);
        self.slow += u64::from(findings.slow);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.abandoned += other.abandoned;
        self.would_time_out += other.would_time_out;
        self.near_limit += other.near_limit;
        self.slow += other.slow;
    }
}

/// How long calls lasted, to within a sixteenth and 16 us. A call that timed out counts with the time that it was let,
/// one that failed, was abandoned or
/// streamed to its caller does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// How many calls there were.
    pub samples: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

impl Times {
    pub(crate) fn of(times: &Histogram<u32>) -> Option<Self> {
        let at = |q| Duration::from_micros(times.value_at_quantile(q));
        let samples = times.len();
        (samples > 0).then(|| Self {
            samples,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
        })
    }
}
