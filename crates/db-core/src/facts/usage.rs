//! How often a text was run, and how long callers waited for it: counted where its facts are at hand anyway.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// After its first runs only each so manieth is timed, so that threads that run the same text seldom meet here.
const EACH: u64 = 16;

/// Relaxed counters: figures, on which nothing depends.
#[derive(Debug, Default)]
pub(super) struct Usage {
    uses: AtomicU64,
    timed: AtomicU64,
    nanos: AtomicU64,
}

impl Clone for Usage {
    fn clone(&self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Relaxed));
        Self {
            uses: copy(&self.uses),
            timed: copy(&self.timed),
            nanos: copy(&self.nanos),
        }
    }
}

impl Usage {
    pub(super) fn used(&self) {
        self.uses.fetch_add(1, Relaxed);
    }

    pub(super) fn uses(&self) -> u64 {
        self.uses.load(Relaxed)
    }

    pub(super) fn took(&self, duration: Duration) {
        let uses = self.uses();
        if uses <= EACH || uses.is_multiple_of(EACH) {
            let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            self.nanos.fetch_add(nanos, Relaxed);
            self.timed.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        let nanos = self.nanos.load(Relaxed).checked_div(self.timed.load(Relaxed))?;
        Some(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_a_sample() {
        let usage = Usage::default();
        assert_eq!(usage.mean(), None);
        for n in 1..=160_u64 {
            usage.used();
            usage.took(Duration::from_millis(if n > EACH { 3 } else { 1 }));
        }
        assert_eq!(usage.uses(), 160);
        assert_eq!(usage.timed.load(Relaxed), 16 + 9);
        assert_eq!(usage.mean(), Some(Duration::from_nanos((16 + 27) * 1_000_000 / 25)));
    }
}
