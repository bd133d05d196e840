//! What leases take, by priority, and so how long a queue will take.

use db_core::Priority;
use std::time::Duration;

/// Leases seen before anything is predicted.
const ENOUGH: u32 = 16;
/// The weight of a new measurement in the mean: one of 32.
const WEIGHT: u32 = 5;
/// The step of the running median: one of 32 of itself.
const STEP: u32 = 5;

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// What a queue is worked off by: every lease counts by its length.
    mean: u64,
    /// What one call takes: half of them less. A few reports must not make every look-up seem slow.
    median: u64,
    seen: u32,
}

impl Held {
    fn observe(&mut self, nanos: u64) {
        if self.seen == 0 {
            (self.mean, self.median) = (nanos, nanos);
        }
        self.seen = self.seen.saturating_add(1);
        // A plain average at first, then an exponential one.
        let weight = u64::from(self.seen.min(1 << WEIGHT));
        self.mean = (self.mean - self.mean / weight).saturating_add(nanos / weight);
        let step = (self.median >> STEP).max(1);
        if nanos > self.median {
            self.median = self.median.saturating_add(step);
        } else {
            self.median = self.median.saturating_sub(step);
        }
    }
}

/// How long leases are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forecast([Held; 4]);

impl Forecast {
    /// A lease came back that nobody had cancelled.
    pub(crate) fn observe(&mut self, priority: Priority, held: Duration) {
        self.0[priority.index()].observe(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What a lease of this priority takes on average; zero while nothing is known.
    pub(crate) fn mean(&self, priority: Priority) -> Duration {
        Duration::from_nanos(self.0[priority.index()].mean)
    }

    /// The mean of the slowest priority.
    pub(crate) fn longest_mean(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|held| held.mean).max().unwrap_or_default())
    }

    /// What half of the leases of this priority take at most.
    pub(crate) fn typical(&self, priority: Priority) -> Option<Duration> {
        let held = &self.0[priority.index()];
        (held.seen >= ENOUGH).then(|| Duration::from_nanos(held.median))
    }

    /// Whether a call that has to wait for so long would most likely not end within what is left of its time. In an
    /// overload everybody who is let in is close to that line: without a margin half of them would be cut off half-way,
    /// and have cost as much as those who are not. The margin only shortens a queue that is never empty then.
    pub(crate) fn is_late(&self, priority: Priority, wait: Duration, left: Duration) -> bool {
        let typical = self.typical(priority).unwrap_or_default();
        wait + wait / 4 + typical + typical / 2 > left
    }

    /// How long the last of `ahead` (by priority) waits when `places` serve them.
    pub(crate) fn wait(&self, ahead: [usize; 4], places: u32) -> Duration {
        let total = self.0.iter().zip(ahead).fold(0_u64, |sum, (held, count)| {
            sum.saturating_add(held.mean.saturating_mul(count as u64))
        });
        Duration::from_nanos(total / u64::from(places.max(1)))
    }
}
