//! Distributions that many threads add to: a page for each of a few threads, one short lock for all that a call adds,
//! no allocation but when a series is new.

use parking_lot::Mutex;
use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// Upper bounds in nanoseconds: every bound of every histogram in the registry is one of these.
pub(crate) const BOUNDS: [u64; 19] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
];
const CELLS: usize = BOUNDS.len() + 1;

/// One distribution of times. Keeping the sum of each cell keeps both counts and sums exact when it is handed on as one
/// mean value for each cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) counts: [u64; CELLS],
    pub(crate) nanos: [u64; CELLS],
}

impl Tally {
    fn note(&mut self, nanos: u64) {
        let cell = BOUNDS.partition_point(|bound| *bound < nanos);
        self.counts[cell] += 1;
        self.nanos[cell] = self.nanos[cell].saturating_add(nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for cell in 0..CELLS {
            self.counts[cell] += other.counts[cell];
            self.nanos[cell] = self.nanos[cell].saturating_add(other.nanos[cell]);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every cell that holds something: how many, and their mean in seconds, which lies within the cell.
    pub(crate) fn means(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        self.counts
            .iter()
            .zip(&self.nanos)
            .filter(|(count, _)| **count > 0)
            .map(|(count, nanos)| (*count, *nanos as f64 / *count as f64 / 1e9))
    }

    /// The value below which the share `q` of all lies, interpolated within its cell; 0 when empty.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let target = q * self.count() as f64;
        let mut below = 0.0;
        for cell in 0..CELLS {
            let count = self.counts[cell] as f64;
            if count > 0.0 && below + count >= target {
                let low = if cell == 0 { 0 } else { BOUNDS[cell - 1] };
                let mean = self.nanos[cell] as f64 / count;
                let high = BOUNDS.get(cell).map_or(2.0 * mean, |high| *high as f64);
                let at = low as f64 + (high - low as f64) * ((target - below) / count).clamp(0.0, 1.0);
                return Duration::from_nanos(at as u64);
            }
            below += count;
        }
        Duration::ZERO
    }
}

/// Where a distribution is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Series(pub(crate) u32);

/// Alone on its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Page(Mutex<Vec<Tally>>);

/// All distributions.
pub(crate) struct Book(Box<[Page]>);

impl Book {
    pub(crate) fn new() -> Self {
        const MOST: usize = 16;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self((0..threads.min(MOST)).map(|_| Page::default()).collect())
    }

    /// Opens this thread's page for all that a call adds.
    pub(crate) fn write(&self, add: impl FnOnce(&mut Entry<'_>)) {
        let mut page = self.0[thread_number() % self.0.len()].0.lock();
        add(&mut Entry(&mut page));
    }

    /// Takes out what was added since the last time.
    pub(crate) fn drain(&self) -> Vec<Tally> {
        let mut all: Vec<Tally> = Vec::new();
        for page in &self.0 {
            // A copy under the lock, the sums outside of it.
            let taken: Vec<Tally> = {
                let mut page = page.0.lock();
                let taken = page.clone();
                page.fill(Tally::default());
                taken
            };
            if taken.len() > all.len() {
                all.resize(taken.len(), Tally::default());
            }
            for (sum, tally) in all.iter_mut().zip(&taken) {
                sum.add(tally);
            }
        }
        all
    }
}

/// An open page.
pub(crate) struct Entry<'a>(&'a mut Vec<Tally>);

impl Entry<'_> {
    pub(crate) fn note(&mut self, series: Series, time: Duration) {
        let index = series.0 as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Tally::default());
        }
        self.0[index].note(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A number for each thread, in the order in which they come.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that ends may drop futures after its locals.
    MINE.try_with(|mine| *mine).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Kind, METRICS};
    use proptest::prelude::*;

    #[test]
    fn every_bucket_of_the_registry_is_a_bound() {
        for metric in METRICS {
            let Kind::Histogram(bounds) = metric.kind else { continue };
            for bound in bounds {
                assert!(BOUNDS.iter().any(|b| *b as f64 / 1e9 == *bound), "{bound}");
            }
        }
    }

    proptest! {
        /// Handing on one mean for each cell neither moves a value to another bucket nor changes count or sum.
        #[test]
        fn means_stay_in_their_cells(values in prop::collection::vec(0_u64..200_000_000_000, 1..200)) {
            let mut tally = Tally::default();
            values.iter().for_each(|v| tally.note(*v));
            for bound in BOUNDS {
                let at_most = values.iter().filter(|v| **v <= bound).count() as u64;
                let handed: u64 = tally.means().filter(|(_, mean)| *mean <= bound as f64 / 1e9).map(|(n, _)| n).sum();
                prop_assert_eq!(at_most, handed);
            }
            let sum: f64 = tally.means().map(|(n, mean)| n as f64 * mean).sum();
            let exact = values.iter().sum::<u64>() as f64 / 1e9;
            prop_assert!((sum - exact).abs() <= exact * 1e-9);
        }
    }

    #[test]
    fn nothing_is_lost_between_threads_and_drains() {
        let book = Book::new();
        let mut total = 0;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..10_000 {
                        book.write(|entry| entry.note(Series(i % 3), Duration::from_micros(u64::from(i))));
                    }
                });
            }
            for _ in 0..100 {
                total += book.drain().iter().map(Tally::count).sum::<u64>();
            }
        });
        total += book.drain().iter().map(Tally::count).sum::<u64>();
        assert_eq!(total, 40_000);
    }

    #[test]
    fn quantiles_lie_in_their_cells() {
        let mut tally = Tally::default();
        assert_eq!(tally.quantile(0.5), Duration::ZERO);
        (0..99).for_each(|_| tally.note(700_000));
        tally.note(3_000_000_000);
        assert!((500..=1000).contains(&tally.quantile(0.5).as_micros()));
        assert!(tally.quantile(0.999) > Duration::from_millis(2500));
    }
}
