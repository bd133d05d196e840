//! How long calls took of late, in bounded memory.

use crate::stats::Times;
use hdrhistogram::Histogram;
use std::time::Duration;
use tokio::time::Instant;

/// Durations are told apart from here, in microseconds, to within a sixteenth.
const FINEST: u64 = 16;
/// Longer ones are all alike: 134 s.
const LONGEST: u64 = 1 << 27;

/// The durations of one or two windows. A call that was given up is known only to have taken longer than it was let:
/// it is counted beside the durations, never among them.
#[derive(Default)]
pub(crate) struct Recent {
    fresh: Window,
    old: Window,
    since: Option<Instant>,
}

#[derive(Default)]
struct Window {
    /// Made at the first duration: most statements of a careless application are seen once.
    times: Option<Histogram<u32>>,
    given_up: u32,
    /// The longest that one of those was let.
    let_run: Duration,
}

impl Recent {
    /// Moves on when the window has passed and holds `enough`, so that a rare statement is not forgotten. With
    /// `enough` zero, two windows without a call leave nothing.
    pub(crate) fn turn(&mut self, now: Instant, window: Duration, enough: u64) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < window || self.fresh.count() < enough {
            return;
        }
        std::mem::swap(&mut self.fresh, &mut self.old);
        self.fresh.clear();
        if enough == 0 && age >= window * 2 {
            self.old.clear();
        }
        self.since = Some(now);
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.fresh.times.get_or_insert_with(histogram).saturating_record(micros);
    }

    pub(crate) fn record_given_up(&mut self, let_run: Duration) {
        self.fresh.given_up = self.fresh.given_up.saturating_add(1);
        self.fresh.let_run = self.fresh.let_run.max(let_run);
    }

    pub(crate) fn clear(&mut self) {
        self.fresh.clear();
        self.old.clear();
        self.since = None;
    }

    pub(crate) fn count(&self) -> u64 {
        self.fresh.count() + self.old.count()
    }

    /// The duration that a share `q` of all calls did not exceed. `None` when it lies among those that were given up
    /// or off the scale: then nobody knows.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let times = self.merged()?;
        let rank = (q * self.count() as f64).ceil().max(1.0);
        if rank > times.len() as f64 {
            return None;
        }
        // Half a rank below, so that rounding cannot reach the next one.
        let micros = times.value_at_quantile((rank - 0.5) / times.len() as f64);
        (micros < LONGEST).then(|| Duration::from_micros(micros))
    }

    /// Percentiles as the callers saw them: one that was given up took as long as it was let.
    pub(crate) fn times(&self) -> Option<Times> {
        let mut times = self.merged().unwrap_or_else(histogram);
        for window in [&self.fresh, &self.old] {
            let micros = u64::try_from(window.let_run.as_micros()).unwrap_or(u64::MAX);
            times.saturating_record_n(micros, window.given_up);
        }
        Times::of(&times)
    }

    /// Adds all durations to `sum`.
    pub(crate) fn add_to(&self, sum: &mut Histogram<u32>) {
        for times in [&self.fresh.times, &self.old.times].into_iter().flatten() {
            sum.add(times).expect("all histograms have the same bounds");
        }
    }

    fn merged(&self) -> Option<Histogram<u32>> {
        match (&self.fresh.times, &self.old.times) {
            (None, None) => None,
            (Some(only), None) | (None, Some(only)) => Some(only.clone()),
            (Some(_), Some(_)) => {
                let mut sum = histogram();
                self.add_to(&mut sum);
                Some(sum)
            }
        }
    }
}

impl Window {
    fn count(&self) -> u64 {
        self.times.as_ref().map_or(0, Histogram::len) + u64::from(self.given_up)
    }

    fn clear(&mut self) {
        if let Some(times) = &mut self.times {
            times.clear();
        }
        (self.given_up, self.let_run) = (0, Duration::ZERO);
    }
}

/// Fixed bounds: 1,344 bytes of counters.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(FINEST, LONGEST, 1).expect("the bounds are constants and in order")
}
