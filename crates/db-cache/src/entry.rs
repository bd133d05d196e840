//! One answer, and how it is handed out.

use crate::{books::Book, versions::Snapshot};
use std::{any::Any, fmt, ops::Deref, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How far a node had got when something was read or written on it. Opaque here: two positions are compared only
/// within one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The history that `at` counts in; for PostgreSQL its timeline.
    pub epoch: u64,
    /// How far, within the epoch; for PostgreSQL an LSN.
    pub at: u64,
}

impl Position {
    /// Whether what was read at this position shows everything up to `needed`.
    pub fn covers(self, needed: Self) -> bool {
        self.epoch == needed.epoch && self.at >= needed.at
    }
}

/// Whether a reader who needs `needed` may have what was read at `have`.
pub(crate) fn covers(have: Option<Position>, needed: Option<Position>) -> bool {
    needed.is_none_or(|needed| have.is_some_and(|have| have.covers(needed)))
}

/// Any value, shared.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// An answer in memory.
pub(crate) struct Entry {
    /// `None`: there is no such row.
    pub(crate) value: Option<Value>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// When its read began: the answer is at least as new as that.
    pub(crate) born: Instant,
    pub(crate) fresh_for: Duration,
    /// What it is kept for beyond that, at most.
    pub(crate) stale_for: Duration,
    pub(crate) position: Option<Position>,
    pub(crate) weight: u32,
    pub(crate) book: Arc<Book>,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Freshness {
    /// Read from the database for this call.
    Read,
    /// Read by another caller while this one waited.
    Joined,
    /// From memory, within its time.
    Fresh,
    /// From memory, past its time, while it is being read again.
    Revalidating,
    /// From memory, past its time, since the database can't be reached.
    StaleIfError,
}

/// A shared value, with its age.
pub struct Answer<T> {
    value: Arc<T>,
    age: Duration,
    freshness: Freshness,
}

impl<T> Answer<T> {
    /// A value of this age.
    pub fn new(value: Arc<T>, age: Duration, freshness: Freshness) -> Self {
        Self { value, age, freshness }
    }

    /// The value.
    pub fn into_arc(self) -> Arc<T> {
        self.value
    }

    /// How long ago its read began; zero when it was read for this call.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// How it came about.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            age: self.age,
            freshness: self.freshness,
        }
    }
}

impl<T> Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("age", &self.age)
            .field("freshness", &self.freshness)
            .finish_non_exhaustive()
    }
}
