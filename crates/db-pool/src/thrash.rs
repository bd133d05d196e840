//! When to warn that statements push each other out: plain, without a clock.

use std::time::Duration;
use tokio::time::Instant;

/// So many statements prepared again in [`Thrash::WINDOW`] after they were pushed out are told. Own choice: ten a second are
/// ten round trips too many, and a deployment's first minute has fewer.
const THRASH: u32 = 100;
/// It is told no more often.
const TELL_EACH: Duration = Duration::from_secs(60);

/// Counts statements that were prepared again because they had been pushed out.
#[derive(Default)]
pub(crate) struct Thrash {
    window: Option<(Instant, u32)>,
    told: Option<Instant>,
}

impl Thrash {
    pub(crate) const WINDOW: Duration = Duration::from_secs(10);

    /// A statement was prepared again after it had been pushed out: how many there were lately, if that is to be told.
    pub(crate) fn again(&mut self, now: Instant) -> Option<u32> {
        let (since, count) = match self.window {
            Some((since, count)) if now.saturating_duration_since(since) < Self::WINDOW => (since, count + 1),
            _ => (now, 1),
        };
        self.window = Some((since, count));
        let quiet = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TELL_EACH);
        (count >= THRASH && quiet).then(|| {
            self.told = Some(now);
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thrashing_is_told_once_a_minute_and_slow_turnover_never() {
        let mut thrash = Thrash::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let told: Vec<_> = (0..3_000).filter_map(|n| thrash.again(at(n * 10))).collect();
        assert_eq!(told, [THRASH], "in 30 s");
        assert_eq!(thrash.again(at(61_000)), None, "a new window begins");
        let told: Vec<_> = (0..200).filter_map(|n| thrash.again(at(61_010 + n))).collect();
        assert_eq!(told, [THRASH]);
        let mut slow = Thrash::default();
        assert!((0..10_000).all(|n| slow.again(at(n * 200)).is_none()), "five a second");
    }
}
