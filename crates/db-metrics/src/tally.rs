//! Distributions that many threads add to: a page for each of a few threads, one short lock for all that a call adds,
//! no look-up among other threads' statements, and no allocation but when a series is new.

use crate::statements::AtHand;
use parking_lot::{Mutex, MutexGuard};
use std::{
    mem,
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

/// By the number of bits of a time: the first cell that a time of so many bits can be in. Bounds at least double, so it
/// is this one or the next.
const FIRST: [u8; 65] = {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let least = 1_u64 << (bits - 1);
        let mut cell = 0;
        while cell < BOUNDS.len() && BOUNDS[cell] < least {
            cell += 1;
        }
        first[bits] = cell as u8;
        bits += 1;
    }
    first
};

/// A time and the cell that it belongs to, looked for once however many distributions it is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    nanos: u64,
    cell: usize,
}

impl Time {
    /// Of less than 584 years.
    pub(crate) fn of(time: Duration) -> Self {
        let seconds = time.as_secs().saturating_mul(1_000_000_000);
        Self::nanos(seconds.saturating_add(u64::from(time.subsec_nanos())))
    }

    fn nanos(nanos: u64) -> Self {
        let mut cell = usize::from(FIRST[64 - nanos.leading_zeros() as usize]);
        while cell < BOUNDS.len() && BOUNDS[cell] < nanos {
            cell += 1;
        }
        Self { nanos, cell }
    }
}

/// One distribution of times. Keeping the sum of each cell keeps both counts and sums exact when it is handed on as one
/// mean value for each cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally([Cell; CELLS]);

/// Count and sum side by side: adding touches one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    count: u64,
    nanos: u64,
}

impl Tally {
    fn note(&mut self, time: Time) {
        let cell = &mut self.0[time.cell];
        cell.count += 1;
        cell.nanos = cell.nanos.saturating_add(time.nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (cell, other) in self.0.iter_mut().zip(&other.0) {
            cell.count += other.count;
            cell.nanos = cell.nanos.saturating_add(other.nanos);
        }
    }

    /// What came since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut out = *self;
        for (cell, before) in out.0.iter_mut().zip(&before.0) {
            cell.count = cell.count.saturating_sub(before.count);
            cell.nanos = cell.nanos.saturating_sub(before.nanos);
        }
        out
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|cell| cell.count).sum()
    }

    /// Every cell that holds something: how many, and their mean in seconds, which lies within the cell.
    pub(crate) fn means(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        let held = self.0.iter().filter(|cell| cell.count > 0);
        held.map(|cell| (cell.count, cell.nanos as f64 / cell.count as f64 / 1e9))
    }

    /// The value below which the share `q` of all lies, interpolated within its cell; 0 when empty.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let target = q * self.count() as f64;
        let mut below = 0.0;
        for (place, cell) in self.0.iter().enumerate() {
            let count = cell.count as f64;
            if count > 0.0 && below + count >= target {
                let low = if place == 0 { 0 } else { BOUNDS[place - 1] };
                let mean = cell.nanos as f64 / count;
                let high = BOUNDS.get(place).map_or(2.0 * mean, |high| *high as f64);
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
struct Page(Mutex<Sheet>);

/// What one page holds. To be kept open for nanoseconds.
pub(crate) struct Sheet {
    pub(crate) tallies: Tallies,
    pub(crate) at_hand: AtHand,
}

/// Distributions by series.
#[derive(Default)]
pub(crate) struct Tallies(Vec<Tally>);

/// All distributions.
pub(crate) struct Book(Box<[Page]>);

impl Book {
    /// With room for so many series from the start; more are made room for when they come.
    pub(crate) fn new(series: u32) -> Self {
        const FEWEST: usize = 8;
        const MOST: usize = 64;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        // Several for each core: the threads of one runtime come one after the other, and have pages of their own.
        let pages = (2 * threads).clamp(FEWEST, MOST);
        let sheet = || Sheet {
            tallies: Tallies(vec![Tally::default(); series as usize]),
            at_hand: AtHand::new(),
        };
        Self((0..pages).map(|_| Page(Mutex::new(sheet()))).collect())
    }

    /// This thread's page.
    pub(crate) fn open(&self) -> MutexGuard<'_, Sheet> {
        self.0[thread_number() % self.0.len()].0.lock()
    }

    /// Takes out what was added since the last time.
    pub(crate) fn drain(&self) -> Vec<Tally> {
        let mut all: Vec<Tally> = Vec::new();
        for page in &self.0 {
            // Room and sums are made outside of the lock.
            let room = page.0.lock().tallies.0.len();
            let fresh = vec![Tally::default(); room];
            let taken = page.0.lock().tallies.exchange(fresh);
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

impl Tallies {
    pub(crate) fn note(&mut self, series: Series, time: Time) {
        let index = series.0 as usize;
        if index >= self.0.len() {
            self.grow(index);
        }
        self.0[index].note(time);
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        self.0.resize(index + 1, Tally::default());
    }

    fn exchange(&mut self, mut fresh: Vec<Tally>) -> Vec<Tally> {
        // A series may have come meanwhile.
        fresh.resize(fresh.len().max(self.0.len()), Tally::default());
        mem::replace(&mut self.0, fresh)
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
            values.iter().for_each(|v| tally.note(Time::nanos(*v)));
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

    proptest! {
        #[test]
        fn a_time_is_in_the_cell_that_a_search_finds(bits in 0_u32..64, more in any::<u64>()) {
            let nanos = more >> bits;
            prop_assert_eq!(Time::nanos(nanos).cell, BOUNDS.partition_point(|bound| *bound < nanos));
        }
    }

    #[test]
    fn bounds_are_in_the_cell_below_them() {
        for (cell, bound) in BOUNDS.iter().enumerate() {
            assert_eq!(
                [Time::nanos(*bound).cell, Time::nanos(bound + 1).cell],
                [cell, cell + 1]
            );
        }
        assert_eq!([Time::nanos(0).cell, Time::nanos(u64::MAX).cell], [0, CELLS - 1]);
        assert_eq!(Time::of(Duration::MAX).nanos, u64::MAX);
    }

    #[test]
    fn nothing_is_lost_between_threads_and_drains() {
        let book = Book::new(1);
        let mut total = 0;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..10_000 {
                        book.open()
                            .tallies
                            .note(Series(i % 3), Time::of(Duration::from_micros(u64::from(i))));
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
        (0..99).for_each(|_| tally.note(Time::nanos(700_000)));
        tally.note(Time::nanos(3_000_000_000));
        assert!((500..=1000).contains(&tally.quantile(0.5).as_micros()));
        assert!(tally.quantile(0.999) > Duration::from_millis(2500));
    }
}
