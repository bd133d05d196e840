//! One answer, and how it is handed out.

use crate::{books::Book, versions::Snapshot};
use std::{any::Any, fmt, ops::Deref, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Any value, shared.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// An answer in memory.
pub(crate) struct Entry {
    /// `None`: there is no such row.
    pub(crate) value: Option<Value>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// It shows everything that was committed before: its read began then, or was held to that much.
    pub(crate) born: Instant,
    /// It shows everything of watched tables that was committed before: later than `born` if another process read it, and
    /// nothing had been heard to be written since.
    pub(crate) shows: Instant,
    /// When its read had ended: it shows nothing that was committed later.
    pub(crate) read: Instant,
    pub(crate) fresh_for: Duration,
    /// What it is kept for beyond that, at most.
    pub(crate) stale_for: Duration,
    /// Whether the server tells of every write of what it read.
    pub(crate) watched: bool,
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
    /// Read by another process, which has left it in the shared store.
    Shared,
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
    read: Instant,
}

impl<T> Answer<T> {
    /// A value of this age, whose read ended by now.
    pub fn new(value: Arc<T>, age: Duration, freshness: Freshness) -> Self {
        Self::read_at(value, age, freshness, Instant::now())
    }

    /// The same with the moment by which it had been read.
    pub(crate) fn read_at(value: Arc<T>, age: Duration, freshness: Freshness, read: Instant) -> Self {
        Self {
            value,
            age,
            freshness,
            read,
        }
    }

    /// The value.
    pub fn into_arc(self) -> Arc<T> {
        self.value
    }

    /// How long ago its read began; zero when it was read for this call.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// A moment after which nothing was committed that it shows.
    pub fn read_by(&self) -> Instant {
        self.read
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
            read: self.read,
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
