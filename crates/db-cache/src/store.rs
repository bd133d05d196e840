//! The entries, bounded in bytes.

use crate::{books::Books, entry::Entry, key::Key, versions::AsIs};
use moka::{Expiry, notification::RemovalCause, sync::Cache};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What an entry costs beside its value and its snapshot: the entry itself, and the nodes of moka's map, its queues and
/// its timer wheel. Measured by the proof `cache-memory`.
const OVERHEAD: usize = 448;
/// Maintenance runs when so much of the limit has come in since the last time: between two runs the store may hold
/// that much more.
const SETTLE: u64 = 64;

/// TinyLFU keeps what is asked for most; what is past all of its times goes as well.
pub(crate) struct Store {
    cache: Cache<Key, Arc<Entry>, AsIs>,
    most: u64,
    unsettled: AtomicU64,
}

impl Store {
    pub(crate) fn new(max_bytes: u64, books: &Arc<Books>) -> Self {
        let books = Arc::clone(books);
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, entry: &Arc<Entry>| entry.weight)
            .expire_after(Lifetime)
            .eviction_listener(move |_, _, cause| {
                if matches!(cause, RemovalCause::Size | RemovalCause::Expired) {
                    books.evicted(cause == RemovalCause::Size);
                }
            })
            .build_with_hasher(AsIs);
        Self {
            cache,
            most: max_bytes,
            unsettled: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<Arc<Entry>> {
        self.cache.get(&key)
    }

    pub(crate) fn insert(&self, key: Key, entry: Arc<Entry>) {
        let weight = u64::from(entry.weight);
        self.cache.insert(key, entry);
        let unsettled = self.unsettled.fetch_add(weight, Ordering::Relaxed) + weight;
        if unsettled * SETTLE > self.most {
            self.unsettled.store(0, Ordering::Relaxed);
            self.cache.run_pending_tasks();
        }
    }

    pub(crate) fn remove(&self, key: Key) {
        self.cache.invalidate(&key);
    }

    pub(crate) fn clear(&self) {
        self.cache.invalidate_all();
    }

    /// Entries and bytes, as of the last maintenance.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.cache.run_pending_tasks();
        (self.cache.entry_count(), self.cache.weighted_size())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

/// The weight of an entry whose value takes `bytes`: with a fifth for the gaps that blocks of all sizes leave between one
/// another when they come and go. Without it a process grew by 105 to 120 % of the limit (`prove cache-memory`).
pub(crate) fn weight(bytes: usize) -> u32 {
    let bytes = bytes + OVERHEAD;
    u32::try_from(bytes + bytes / 5).unwrap_or(u32::MAX)
}

/// What a block of so many bytes takes on the heap: allocators note its size before it, and round it up.
pub fn allocated(bytes: usize) -> usize {
    const NOTE: usize = 8;
    const STEP: usize = 16;
    const LEAST: usize = 32;
    match bytes {
        0 => 0,
        bytes => (bytes + NOTE).next_multiple_of(STEP).max(LEAST),
    }
}

/// Only the upper bound: whether an answer is fresh is decided when it is read, by tokio's clock.
struct Lifetime;

impl Expiry<Key, Arc<Entry>> for Lifetime {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.fresh_for + entry.stale_for)
    }

    fn expire_after_update(&self, _: &Key, entry: &Arc<Entry>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(entry.fresh_for + entry.stale_for)
    }
}
