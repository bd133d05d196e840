//! A limit learned for one statement.

use crate::{config::AdaptiveConfig, limit, recent::Recent};
use std::{ops::RangeInclusive, time::Duration};
use tokio::time::Instant;

/// Calls between two looks at the durations: a sixteenth of those known, within these bounds.
const LOOK_EVERY: RangeInclusive<u64> = 32..=1024;
/// The calls among which timeouts are counted: the bits of `outcomes`.
const OUTCOMES: f64 = 64.0;

/// Learns a limit from the calls of one statement.
///
/// A timeout is a *censored* sample: the call would have taken longer, nobody knows by how much. Both easy ways to treat
/// it spiral. Left out, only the survivors teach: each limit cuts the tail off the next lesson, the limit ratchets down,
/// and after a slow-down in which every call passes the limit there is no lesson left, so it stays for ever. Entered as
/// a duration, the limit teaches itself: an outage in which all calls hang multiplies it by `factor` at each look, up to
/// whatever the statement's ceiling is, and its quantiles then speak of limits instead of queries.
///
/// Here a timeout counts as longer than everything that finished. As long as fewer calls time out than lie beyond the
/// quantile, the quantile is exact. When it falls among the timeouts nothing is learned; and when more than
/// `widen_share` of the last 64 calls timed out, the limit is no longer believed: it doubles (up to the class's), what
/// was learned is dropped, and the next `min_samples` calls teach anew. A statement that became `n` times slower loses
/// about `4 * log2(n)` calls.
#[derive(Default)]
pub(crate) struct Learner {
    limit: Option<Duration>,
    /// The last calls, newest lowest; a one is a timeout.
    outcomes: u64,
    unread: u64,
}

/// A limit that was no longer believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widened {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Learner {
    /// The learned limit, not yet within the bounds of a class.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// A call finished; its duration is in `recent` already.
    pub(crate) fn finished(&mut self, recent: &Recent, config: &AdaptiveConfig) {
        self.outcomes <<= 1;
        self.look(recent, config);
    }

    /// A call was given up after `let_run`.
    pub(crate) fn given_up(
        &mut self,
        recent: &mut Recent,
        let_run: Duration,
        class: Duration,
        config: &AdaptiveConfig,
    ) -> Option<Widened> {
        let from = self.limit.map(|learned| limit::clamp(learned, class, config));
        // A caller's own shorter limit says nothing about the tail.
        if from.is_some_and(|from| let_run < from) {
            return None;
        }
        recent.record_given_up(let_run);
        self.outcomes = self.outcomes << 1 | 1;
        let share = f64::from(self.outcomes.count_ones()) / OUTCOMES;
        match from {
            Some(from) if share > config.widen_share && from < class => {
                let to = (from * 2).min(class);
                *self = Self {
                    limit: Some(to),
                    ..Self::default()
                };
                recent.clear();
                Some(Widened { from, to })
            }
            _ => {
                self.look(recent, config);
                None
            }
        }
    }

    fn look(&mut self, recent: &Recent, config: &AdaptiveConfig) {
        self.unread += 1;
        let count = recent.count();
        let enough = u64::from(config.min_samples);
        let due = (count / 16).clamp(*LOOK_EVERY.start(), *LOOK_EVERY.end());
        if count == enough || (count > enough && self.unread >= due) {
            self.unread = 0;
            if let Some(usual) = recent.quantile(config.quantile) {
                self.limit = Some(usual.mul_f64(config.factor));
            }
        }
    }
}

/// Whether a window may be left: it has to hold enough for a lesson.
pub(crate) fn turn(recent: &mut Recent, now: Instant, window: Duration, config: &AdaptiveConfig) {
    recent.turn(now, window, u64::from(config.min_samples));
}

#[cfg(test)]
#[path = "learner_tests.rs"]
mod tests;
