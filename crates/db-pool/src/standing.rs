//! Whether the queue merely absorbs a burst or stands: the question of CoDel.
//!
//! It stands when it has not been empty for a whole interval, somebody in it has waited longer than the target, and by
//! the measured service time the next one would as well: a stall is not an overload. It also stands when, over a window, half of those that left it had given up. A queue that stands is served from its young end
//! (its old end has most likely been given up) until it has been empty once.

use std::time::Duration;
use tokio::time::Instant;

/// Over so long those that gave up are counted; short, since callers with short patience are lost meanwhile.
const WINDOW: Duration = Duration::from_millis(50);
/// With fewer nothing is concluded.
const ENOUGH: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    empty: Instant,
    window: Instant,
    served: u32,
    left: u32,
    stands: bool,
}

impl Standing {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            empty: now,
            window: now,
            served: 0,
            left: 0,
            stands: false,
        }
    }

    /// The queue was empty when somebody came, or has become empty.
    pub(crate) fn emptied(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    pub(crate) fn served(&mut self) {
        self.served += 1;
    }

    /// Somebody gave up before it was served.
    pub(crate) fn left(&mut self) {
        self.left += 1;
    }

    /// Whether the queue stands, when its oldest waiter came at `oldest` and it is too `long` for those who come.
    pub(crate) fn judge(
        &mut self,
        now: Instant,
        oldest: Instant,
        long: bool,
        target: Duration,
        interval: Duration,
    ) -> bool {
        if now.duration_since(self.window) >= WINDOW {
            self.stands |= self.left >= ENOUGH && self.left >= self.served;
            (self.window, self.served, self.left) = (now, 0, 0);
        }
        self.stands |=
            long && now.duration_since(self.empty) >= interval && now.saturating_duration_since(oldest) > target;
        self.stands
    }

    pub(crate) fn stands(&self) -> bool {
        self.stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(500);

    #[test]
    fn a_burst_does_not_stand_and_a_queue_that_never_empties_does() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut standing = Standing::new(start);
        assert!(!standing.judge(at(499), start, true, TARGET, TARGET));
        assert!(
            !standing.judge(at(600), at(200), true, TARGET, TARGET),
            "nobody waits for long"
        );
        assert!(!standing.judge(at(600), at(50), false, TARGET, TARGET), "a stall");
        assert!(standing.judge(at(600), at(50), true, TARGET, TARGET));
        assert!(
            standing.judge(at(700), at(699), true, TARGET, TARGET),
            "until it has been empty"
        );
        standing.emptied(at(800));
        assert!(!standing.stands());
    }

    #[test]
    fn callers_who_give_up_tell_that_it_stands() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut standing = Standing::new(start);
        for _ in 0..20 {
            standing.left();
            standing.served();
        }
        assert!(
            !standing.judge(at(10), start, true, TARGET, TARGET),
            "the window is not over"
        );
        assert!(standing.judge(at(60), at(50), true, TARGET, TARGET));
        standing.emptied(at(100));
        for _ in 0..3 {
            standing.left();
        }
        assert!(
            !standing.judge(at(200), at(190), true, TARGET, TARGET),
            "three are no crowd"
        );
    }
}
