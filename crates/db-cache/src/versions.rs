//! What has been written since: a counter for each table and tag, compared instead of searching for entries.

use crate::store::allocated;
use std::{
    hash::{BuildHasher, Hash},
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Counters for tables, and as many for tags. Two names in one place are dropped together: rare, and safe.
const PLACES: usize = 8192;

/// Something that can be written, as the place of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place(u32);

impl Place {
    /// Everything there is.
    pub(crate) const ALL: Self = Self(0);

    /// A table by its OID.
    pub(crate) fn table(oid: u32) -> Self {
        Self(1 + oid % PLACES as u32)
    }

    /// The same in every process.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// A caller's tag.
    pub(crate) fn tag(tag: &str) -> Self {
        // Always the same for one tag within a process, which is all that counts.
        let hash = foldhash::fast::FixedState::with_seed(0x7A65).hash_one(tag.as_bytes());
        Self(1 + PLACES as u32 + (hash % PLACES as u64) as u32)
    }
}

/// Counters. A write moves the counters of what it wrote; an entry is good as long as those of what it read stand
/// where they stood when its read began. That closes the race of a slow read with a write for good: it does not
/// matter when the entry is stored.
pub(crate) struct Versions {
    counters: Box<[AtomicU64]>,
    /// Until when nothing that reads this may be stored, in milliseconds since `start`.
    held: Box<[AtomicU64]>,
    /// When each was last written, in microseconds since `start`: a read that is behind must not be that far behind.
    stamps: Box<[AtomicU64]>,
    /// The same without what was heard from the server: of the rest nobody knows whether its notification has come.
    unheard: Box<[AtomicU64]>,
    /// Those who may write anything at any moment.
    writers: AtomicU32,
    /// Others who may, at this moment.
    others: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    start: Instant,
}

/// Where the counters stood when a read began.
#[derive(Debug)]
pub(crate) struct Snapshot {
    seen: Box<[(Place, u64)]>,
    /// Whether what is read now may be kept at all.
    storable: bool,
    /// When the latest of the places was written: a read must show what was committed before.
    written: Instant,
    /// The same for what was not heard of from the server.
    unheard: Instant,
}

impl Versions {
    pub(crate) fn new() -> Self {
        let zeros = || (0..=2 * PLACES).map(|_| AtomicU64::new(0)).collect();
        Self {
            counters: zeros(),
            held: zeros(),
            stamps: zeros(),
            unheard: zeros(),
            writers: AtomicU32::new(0),
            others: OnceLock::new(),
            start: Instant::now(),
        }
    }

    /// Takes a snapshot before a read of these places begins.
    pub(crate) fn snapshot(&self, places: &[Place]) -> Snapshot {
        let mut sorted: Vec<Place> = places.iter().copied().chain([Place::ALL]).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let seen: Box<[_]> = sorted.iter().map(|place| (*place, self.counter(*place))).collect();
        // After the counters: a hold that begins in between is then seen here, one that begins later moves a counter.
        let alone = self.writers.load(Ordering::SeqCst) == 0 && !self.others.get().is_some_and(|others| others());
        let storable = alone && sorted.iter().all(|place| !self.is_held(*place));
        // After the counters, too: whoever moved a counter has left its stamp before.
        let written = sorted.iter().map(|place| self.stamp(*place)).max().unwrap_or_default();
        let micros = |place: &Place| self.unheard[place.0 as usize].load(Ordering::SeqCst);
        let unheard = sorted.iter().map(micros).max().unwrap_or_default();
        Snapshot {
            seen,
            storable,
            // Whoever writes anything at any moment may have written just now.
            written: if alone { self.start + written } else { Instant::now() },
            unheard: self.start + Duration::from_micros(unheard),
        }
    }

    /// Whether nothing of what was read has been written since.
    pub(crate) fn is_current(&self, snapshot: &Snapshot) -> bool {
        snapshot.seen.iter().all(|(place, seen)| self.counter(*place) == *seen)
    }

    /// Whether an answer that was read from this snapshot on may be kept.
    pub(crate) fn may_store(&self, snapshot: &Snapshot) -> bool {
        snapshot.storable && self.is_current(snapshot)
    }

    /// It has been written.
    pub(crate) fn written(&self, place: Place) {
        self.stamped(place, &self.unheard);
        self.heard(place);
    }

    /// The server has told that it was written.
    pub(crate) fn heard(&self, place: Place) {
        self.stamped(place, &self.stamps);
        self.counters[place.0 as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// It may have been written, or may yet be within `doubt`.
    pub(crate) fn in_doubt(&self, place: Place, doubt: Duration) {
        let until = self.millis(Instant::now() + doubt).saturating_add(1);
        self.held[place.0 as usize].fetch_max(until, Ordering::SeqCst);
        self.written(place);
    }

    /// From now on somebody may write anything, until `writer_gone`.
    pub(crate) fn writer_came(&self) {
        self.writers.fetch_add(1, Ordering::SeqCst);
        self.written(Place::ALL);
    }

    pub(crate) fn writer_gone(&self) {
        // What it wrote last was written just now.
        self.stamped(Place::ALL, &self.stamps);
        self.stamped(Place::ALL, &self.unheard);
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn other_writers(&self, writing: Box<dyn Fn() -> bool + Send + Sync>) {
        // The first one stays: there is one stack around a cache.
        drop(self.others.set(writing));
    }

    fn stamped(&self, place: Place, stamps: &[AtomicU64]) {
        let now = Instant::now().saturating_duration_since(self.start);
        // Rounded up: a stamp that is too early would let a read in that misses the write.
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        stamps[place.0 as usize].fetch_max(micros, Ordering::SeqCst);
    }

    /// When it was last written since the start; in doubt, when the doubt ends.
    fn stamp(&self, place: Place) -> Duration {
        let stamp = Duration::from_micros(self.stamps[place.0 as usize].load(Ordering::SeqCst));
        stamp.max(Duration::from_millis(
            self.held[place.0 as usize].load(Ordering::SeqCst),
        ))
    }

    fn is_held(&self, place: Place) -> bool {
        let until = self.held[place.0 as usize].load(Ordering::SeqCst);
        until != 0 && self.millis(Instant::now()) < until
    }

    fn counter(&self, place: Place) -> u64 {
        self.counters[place.0 as usize].load(Ordering::Acquire)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Snapshot {
    /// What it weighs in memory.
    pub(crate) fn bytes(&self) -> usize {
        // Two blocks: itself with its counts, and the list.
        allocated(2 * size_of::<usize>() + size_of::<Self>()) + allocated(size_of_val(&*self.seen))
    }

    /// Whether nobody could write at any moment when it was taken, and no write was in doubt.
    pub(crate) fn is_storable(&self) -> bool {
        self.storable
    }

    /// When the latest of the places was written by what the server need not have told of yet.
    pub(crate) fn unheard(&self) -> Instant {
        self.unheard
    }

    /// When the latest of the places had been written when it was taken; at the earliest the start of the cache.
    pub(crate) fn written(&self) -> Instant {
        self.written
    }
}

/// Hashes keys that are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AsIs;

impl BuildHasher for AsIs {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(0)
    }
}

/// Folds what it is given into 64 bits.
#[derive(Debug)]
pub(crate) struct Folded(u64);

impl std::hash::Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = (number as u64) ^ (number >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_between_begin_and_store_is_seen() {
        let versions = Versions::new();
        let (a, b) = (Place::table(1), Place::table(2));
        let before = versions.snapshot(&[a]);
        assert!(versions.may_store(&before));
        versions.written(b);
        assert!(versions.may_store(&before), "another table");
        versions.written(a);
        assert!(!versions.may_store(&before));
        assert!(versions.may_store(&versions.snapshot(&[a])));
        let all = versions.snapshot(&[a, b]);
        versions.written(Place::ALL);
        assert!(!versions.is_current(&all));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_of_unknown_outcome_keeps_its_tables_out() {
        let versions = Versions::new();
        let (a, b) = (Place::table(1), Place::table(2));
        let before = versions.snapshot(&[a]);
        versions.in_doubt(a, Duration::from_secs(30));
        assert!(!versions.may_store(&before));
        let during = versions.snapshot(&[a]);
        assert!(!versions.may_store(&during) && versions.is_current(&during));
        assert!(versions.may_store(&versions.snapshot(&[b])));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!versions.may_store(&during), "it was read in doubt");
        assert!(versions.may_store(&versions.snapshot(&[a])));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_stored_beside_a_writer_of_anything() {
        let versions = Versions::new();
        let before = versions.snapshot(&[]);
        versions.writer_came();
        let during = versions.snapshot(&[]);
        versions.writer_gone();
        assert!(!versions.may_store(&before) && !versions.may_store(&during));
        assert!(versions.may_store(&versions.snapshot(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_must_not_be_further_behind_than_the_latest_write() {
        let ms = Duration::from_millis(1);
        let versions = Versions::new();
        let (a, b) = (Place::table(1), Place::table(2));
        assert_eq!(versions.snapshot(&[a]).written(), versions.start);
        tokio::time::advance(100 * ms).await;
        versions.written(a);
        let written = Instant::now();
        tokio::time::advance(100 * ms).await;
        assert!(versions.snapshot(&[a]).written() >= written);
        assert_eq!(versions.snapshot(&[b]).written(), versions.start, "another table");
        versions.writer_came();
        tokio::time::advance(100 * ms).await;
        assert_eq!(
            versions.snapshot(&[b]).written(),
            Instant::now(),
            "it may write at any moment"
        );
        versions.writer_gone();
        let gone = Instant::now();
        assert!(
            versions.snapshot(&[b]).written() >= gone,
            "it may have written to its end"
        );
        versions.in_doubt(b, 5000 * ms);
        let settled = versions.snapshot(&[b]).written();
        assert!(settled >= gone + 5000 * ms, "it may be written to the end of the doubt");
    }
}
