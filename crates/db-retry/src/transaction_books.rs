//! The counters of transactions: one short lock for each attempt that ends.

use crate::stats::{Durations, TransactionStats};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::time::Duration;

const HOUR_US: u64 = 3_600_000_000;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    RolledBack,
    Failed { timed_out: bool },
    Unknown,
    Abandoned,
}

/// How an attempt failed, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    Deadlock,
    Serialization,
    ConnectionLost,
}

pub(crate) struct TransactionBooks(Mutex<Counted>);

struct Counted {
    stats: TransactionStats,
    microseconds: Histogram<u64>,
}

impl Default for TransactionBooks {
    fn default() -> Self {
        let microseconds = Histogram::new_with_bounds(1, HOUR_US, 2).expect("constant bounds that are valid");
        Self(Mutex::new(Counted {
            stats: TransactionStats::default(),
            microseconds,
        }))
    }
}

impl TransactionBooks {
    pub(crate) fn mishap(&self, mishap: Mishap) {
        let stats = &mut self.0.lock().stats;
        *match mishap {
            Mishap::Deadlock => &mut stats.deadlocks,
            Mishap::Serialization => &mut stats.serialization_failures,
            Mishap::ConnectionLost => &mut stats.connection_losses,
        } += 1;
    }

    pub(crate) fn end(&self, outcome: Outcome, attempts: u32, took: Duration) {
        let mut counted = self.0.lock();
        let stats = &mut counted.stats;
        match outcome {
            Outcome::Committed => stats.committed += 1,
            Outcome::RolledBack => stats.rolled_back += 1,
            Outcome::Failed { timed_out } => {
                stats.failed += 1;
                stats.timed_out += u64::from(timed_out);
            }
            Outcome::Unknown => stats.unknown += 1,
            Outcome::Abandoned => stats.abandoned += 1,
        }
        let last = stats.attempts.len() - 1;
        stats.attempts[(attempts.max(1) as usize - 1).min(last)] += 1;
        if outcome != Outcome::Abandoned {
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            counted.microseconds.saturating_record(took.clamp(1, HOUR_US));
        }
    }

    pub(crate) fn snapshot(&self) -> TransactionStats {
        let counted = self.0.lock();
        let at = |q| Duration::from_micros(counted.microseconds.value_at_quantile(q));
        let some = !counted.microseconds.is_empty();
        let durations = some.then(|| Durations {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: Duration::from_micros(counted.microseconds.max()),
        });
        TransactionStats {
            durations,
            ..counted.stats.clone()
        }
    }
}
