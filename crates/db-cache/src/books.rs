//! What is counted: in all, and by statement.

use crate::{catalogue::Uncacheable, tier::TierStats};
use db_core::{CacheDrop, Fingerprint};
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// One statement's figures; entries hold on to it, so that a hit looks nothing up.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) stale_if_error: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) coalesced: AtomicU64,
    pub(crate) would_hit: AtomicU64,
    pub(crate) fills: AtomicU64,
    pub(crate) fill_micros: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) shared: AtomicU64,
}

pub(crate) struct Books {
    statements: RwLock<HashMap<Fingerprint, Arc<Book>>>,
    /// Everything beyond the bound, and calls that are no statement.
    other: Arc<Book>,
    uncacheable: [AtomicU64; Uncacheable::ALL.len()],
    dropped: [AtomicU64; CacheDrop::ALL.len()],
    evicted: AtomicU64,
    expired: AtomicU64,
    pub(crate) outdated: AtomicU64,
    pub(crate) too_large: AtomicU64,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            statements: RwLock::default(),
            other: Arc::default(),
            uncacheable: std::array::from_fn(|_| AtomicU64::new(0)),
            dropped: std::array::from_fn(|_| AtomicU64::new(0)),
            evicted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            outdated: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
        }
    }

    /// The book of a statement; at most `most` have their own.
    pub(crate) fn book(&self, statement: Option<Fingerprint>, most: usize) -> Arc<Book> {
        let Some(statement) = statement else {
            return Arc::clone(&self.other);
        };
        if let Some(book) = self.statements.read().get(&statement) {
            return Arc::clone(book);
        }
        let mut statements = self.statements.write();
        if statements.len() >= most && !statements.contains_key(&statement) {
            return Arc::clone(&self.other);
        }
        Arc::clone(statements.entry(statement).or_default())
    }

    pub(crate) fn uncacheable(&self, reason: Uncacheable) {
        self.uncacheable[reason.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self, reason: CacheDrop) {
        self.dropped[reason.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn evicted(&self, for_room: bool) {
        let counter = if for_room { &self.evicted } else { &self.expired };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> CacheStats {
        let mut stats = CacheStats {
            statements: self
                .statements
                .read()
                .iter()
                .map(|(key, book)| (*key, book.read()))
                .collect(),
            evicted: self.evicted.load(Relaxed),
            expired: self.expired.load(Relaxed),
            outdated: self.outdated.load(Relaxed),
            too_large: self.too_large.load(Relaxed),
            uncacheable: Uncacheable::ALL
                .map(|reason| (reason, self.uncacheable[reason.index()].load(Relaxed)))
                .into(),
            invalidations: CacheDrop::ALL
                .map(|reason| (reason, self.dropped[reason.index()].load(Relaxed)))
                .into(),
            total: self.other.read(),
            ..CacheStats::default()
        };
        for (_, calls) in &stats.statements {
            stats.total.add(calls);
        }
        stats
            .statements
            .sort_by_key(|(_, calls)| std::cmp::Reverse(calls.hits + calls.misses));
        stats
    }
}

impl Book {
    pub(crate) fn filled(&self, took: Duration) {
        self.fills.fetch_add(1, Relaxed);
        self.fill_micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> CacheCalls {
        CacheCalls {
            hits: self.hits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            stale_if_error: self.stale_if_error.load(Relaxed),
            misses: self.misses.load(Relaxed),
            coalesced: self.coalesced.load(Relaxed),
            would_hit: self.would_hit.load(Relaxed),
            fills: self.fills.load(Relaxed),
            fill_time: Duration::from_micros(self.fill_micros.load(Relaxed)),
            failed: self.failed.load(Relaxed),
            shared: self.shared.load(Relaxed),
        }
    }
}

/// What the cache has done since the start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// All calls together.
    pub total: CacheCalls,
    /// By statement, those that are asked most first.
    pub statements: Vec<(Fingerprint, CacheCalls)>,
    /// Answers in memory, those that a write has outdated included until they are replaced or leave.
    pub entries: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Answers that left to make room.
    pub evicted: u64,
    /// Answers that left when they were past all of their times.
    pub expired: u64,
    /// Answers that were not kept since something they read had been written in the meantime.
    pub outdated: u64,
    /// Answers that were not kept since they were too large.
    pub too_large: u64,
    /// Calls that were not cached, by reason.
    pub uncacheable: Vec<(Uncacheable, u64)>,
    /// Invalidations, by reason.
    pub invalidations: Vec<(CacheDrop, u64)>,
    /// Whether other writers are heard of at this moment; `None` when nobody listens.
    pub listening: Option<bool>,
    /// Whether the database is known to be in trouble at this moment.
    pub trouble: bool,
    /// The store that is shared with other processes; `None` without one.
    pub tier: Option<TierStats>,
}

/// Calls and how they were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCalls {
    /// From memory, in time.
    pub hits: u64,
    /// From memory, past its time, while it was read again.
    pub stale: u64,
    /// From memory, past its time, since the database could not be reached.
    pub stale_if_error: u64,
    /// Read from the database.
    pub misses: u64,
    /// Answered by another caller's read.
    pub coalesced: u64,
    /// In observe mode: would have been answered from memory.
    pub would_hit: u64,
    /// Answers that were read and, unless outdated or too large, kept.
    pub fills: u64,
    /// How long those reads took together.
    pub fill_time: Duration,
    /// Reads that failed.
    pub failed: u64,
    /// Answered from the store that is shared with other processes.
    pub shared: u64,
}

impl CacheCalls {
    /// The share of calls that needed no read of their own, 0..=1; 0 without a call.
    pub fn hit_rate(&self) -> f64 {
        let served = self.hits + self.stale + self.stale_if_error + self.coalesced + self.shared;
        served as f64 / (served + self.misses).max(1) as f64
    }

    fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.stale += other.stale;
        self.stale_if_error += other.stale_if_error;
        self.misses += other.misses;
        self.coalesced += other.coalesced;
        self.would_hit += other.would_hit;
        self.fills += other.fills;
        self.fill_time += other.fill_time;
        self.failed += other.failed;
        self.shared += other.shared;
    }
}
