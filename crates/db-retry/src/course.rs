//! One call's way through its attempts: whether there is another one, and when.

use crate::{
    backoff::{Backoff, Pace},
    budget::RetryBudget,
    classify::Verdict,
    policy::Shared,
};
use db_core::{GaveUp, RetryCause};
use std::time::Duration;
use tokio::time::Instant;

/// What a failed call has behind it.
#[derive(Default)]
pub(crate) struct Course {
    /// A bit for each cause for which it was repeated at once.
    once: u16,
    pauses: Option<(Pace, Box<dyn Backoff>)>,
}

/// Another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) cause: RetryCause,
    pub(crate) wait: Duration,
}

/// The circumstances of a failure.
#[derive(Clone, Copy)]
pub(crate) struct Circumstances {
    pub(crate) verdict: Verdict,
    pub(crate) retry_after: Option<Duration>,
    /// Attempts that have failed, the one at hand included.
    pub(crate) failed: u32,
    pub(crate) max_attempts: u32,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Ask the budget and take nothing from it.
    pub(crate) observe: bool,
}

impl Course {
    /// Whether there is another attempt; `Ok(None)` when the error is final.
    ///
    /// The budget comes last: who has no time left takes nothing from those who have.
    pub(crate) fn decide(&mut self, shared: &Shared, at: Circumstances) -> Result<Option<Again>, GaveUp> {
        let cause = match at.verdict {
            Verdict::Never => return Ok(None),
            Verdict::Ambiguous => return Err(GaveUp::NotSafe),
            Verdict::Once(cause) | Verdict::Backoff(cause) | Verdict::RerunTransaction(cause) => cause,
        };
        if at.failed >= at.max_attempts {
            return Err(GaveUp::Attempts);
        }
        let pause = match at.verdict {
            Verdict::Once(cause) => self.at_once(cause)?,
            _ => self.pause(shared, cause, at.failed)?,
        };
        // On top, not instead: all who were told the same time must not come back at the same time.
        let wait = pause.saturating_add(at.retry_after.unwrap_or_default());
        if at
            .deadline
            .is_some_and(|deadline| at.now.checked_add(wait).is_none_or(|then| then >= deadline))
        {
            return Err(GaveUp::Deadline);
        }
        let cost = RetryBudget::cost_of(cause);
        let budget = shared.budget();
        let paid = if at.observe {
            budget.has(cost)
        } else {
            budget.try_withdraw(cost)
        };
        if paid {
            Ok(Some(Again { cause, wait }))
        } else {
            Err(GaveUp::Budget)
        }
    }

    /// The same thing twice in one call is no accident that another connection cures. But each stale plan is one less:
    /// the next connection may have one of its own, when the source can't tell them all.
    fn at_once(&mut self, cause: RetryCause) -> Result<Duration, GaveUp> {
        let bit = 1 << cause.index();
        if self.once & bit != 0 && cause != RetryCause::StalePlan {
            return Err(GaveUp::Attempts);
        }
        self.once |= bit;
        Ok(Duration::ZERO)
    }

    fn pause(&mut self, shared: &Shared, cause: RetryCause, failed: u32) -> Result<Duration, GaveUp> {
        let pace = Pace::of(cause);
        if self.pauses.as_ref().is_none_or(|(before, _)| *before != pace) {
            self.pauses = Some((pace, shared.start_backoff(pace)));
        }
        let next = self.pauses.as_mut().and_then(|(_, pauses)| pauses.next(failed));
        next.ok_or(GaveUp::Attempts)
    }
}
