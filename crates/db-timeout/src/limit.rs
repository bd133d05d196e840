//! Which of a call's limits is the nearest, and what its duration then says. Pure decisions.

use crate::{class::ClassLimits, config::AdaptiveConfig};
use db_core::{Call, LimitOrigin, config::Mode};
use std::time::Duration;
use tokio::time::Instant;

/// The limits under which one call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The nearest one, from the start of the call; zero when it has passed already.
    pub(crate) length: Duration,
    /// Which one that is.
    pub(crate) origin: LimitOrigin,
    /// A nearer one that was learned and is only observed.
    pub(crate) observed: Option<Duration>,
}

impl Limit {
    /// The nearest of all that limit the call. `learned` is what is known about its statement.
    pub(crate) fn nearest(
        call: &Call,
        now: Instant,
        class: Duration,
        learned: Option<Duration>,
        config: &AdaptiveConfig,
    ) -> Self {
        let mut limit = Self {
            length: class,
            origin: LimitOrigin::Class,
            observed: None,
        };
        let learned = learned.map(|learned| clamp(learned, class, config));
        if config.mode.enforces() {
            limit.tighten(learned, LimitOrigin::Adaptive);
        }
        limit.tighten(call.timeout, LimitOrigin::Call);
        let left = call.deadline.map(|deadline| deadline.saturating_duration_since(now));
        limit.tighten(left, LimitOrigin::Deadline);
        if config.mode == Mode::Observe {
            limit.observed = learned.filter(|learned| *learned < limit.length);
        }
        limit
    }

    fn tighten(&mut self, length: Option<Duration>, origin: LimitOrigin) {
        if let Some(length) = length.filter(|length| *length < self.length) {
            (self.length, self.origin) = (length, origin);
        }
    }
}

/// A learned limit within the bounds of a class.
pub(crate) fn clamp(learned: Duration, class: Duration, config: &AdaptiveConfig) -> Duration {
    learned.max(config.floor).min(class)
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With an answer.
    Finished,
    /// With an answer whose rows the caller took one by one: how long that lasted says nothing about the statement.
    Streamed,
    /// With an error that is not about time.
    Failed,
    /// Its limit passed.
    TimedOut,
    /// Its limit had passed before it began.
    Refused,
    /// The caller stopped waiting.
    Abandoned,
}

/// What is worth saying about a call that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// It passed a limit that is only observed.
    pub(crate) passed: Option<(Duration, LimitOrigin)>,
    /// It used most of its limit.
    pub(crate) near: bool,
    /// It took longer than its class should.
    pub(crate) slow: bool,
}

impl Findings {
    /// `acts` says whether the limit is enforced, `near` which share of it is near.
    pub(crate) fn of(
        ending: Ending,
        took: Duration,
        limit: &Limit,
        acts: bool,
        near: f64,
        class: &ClassLimits,
    ) -> Self {
        if matches!(ending, Ending::TimedOut | Ending::Refused | Ending::Streamed) {
            return Self::default();
        }
        let over = took > limit.length && !acts;
        let answered = ending != Ending::Abandoned;
        Self {
            passed: match limit.observed {
                _ if over => Some((limit.length, limit.origin)),
                Some(observed) if took > observed => Some((observed, LimitOrigin::Adaptive)),
                _ => None,
            },
            near: answered && !over && took.as_secs_f64() > limit.length.as_secs_f64() * near,
            slow: answered && took > class.alert,
        }
    }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
