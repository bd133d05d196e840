//! What one layer's sources, leases and watches share.

use crate::{
    config::LeakConfig,
    holding::Holding,
    record::{Record, Sight},
    sample::Sampled,
    usage::{By, Usage},
    view::{Counters, Leases, OpenLease},
};
use arc_swap::ArcSwap;
use db_core::{
    Event, Observers, QueryClass, Suspect,
    config::{Checks, InvalidConfig},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Leases are noted.
const NOTED: u8 = 1;
/// Nested acquires are looked for.
const NESTED: u8 = 2;
/// Some leases keep a backtrace.
const SAMPLED: u8 = 4;

pub(crate) struct Ledger {
    settings: ArcSwap<LeakConfig>,
    /// What a checkout has to know of the settings.
    flags: AtomicU8,
    pub(crate) observers: Observers,
    pub(crate) counters: Counters,
    pub(crate) sampled: Sampled,
    pub(crate) holding: Arc<Holding>,
    sources: AtomicU32,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    open: Vec<Arc<Record>>,
    /// What the connections that are gone were used for.
    retired: Usage,
}

/// What a checkout has to do.
#[derive(Clone, Copy)]
pub(crate) struct Duties(u8);

impl Duties {
    pub(crate) fn notes(self) -> bool {
        self.0 & NOTED != 0
    }

    pub(crate) fn looks_for_nested(self) -> bool {
        self.0 & NESTED != 0
    }

    pub(crate) fn samples(self) -> bool {
        self.0 & SAMPLED != 0
    }
}

impl Ledger {
    pub(crate) fn new(config: LeakConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        let ledger = Self {
            settings: ArcSwap::from_pointee(LeakConfig::default()),
            flags: AtomicU8::new(0),
            observers,
            counters: Counters::default(),
            sampled: Sampled::default(),
            holding: Arc::default(),
            sources: AtomicU32::new(0),
            records: Mutex::default(),
        };
        ledger.reload(config)?;
        Ok(ledger)
    }

    pub(crate) fn reload(&self, config: LeakConfig) -> Result<(), InvalidConfig> {
        let mut checks = Checks::default();
        config.validate("leak", &mut checks);
        checks.finish()?;
        self.settings.store(Arc::new(config));
        self.set_flags();
        Ok(())
    }

    pub(crate) fn set_flags(&self) {
        let config = self.settings.load();
        let mut flags = 0;
        if !config.mode.is_off() {
            flags |= NOTED;
            if !config.nested.is_off() {
                flags |= NESTED;
            }
            if config.backtrace_sample > 0.0 || self.sampled.wants_any() {
                flags |= SAMPLED;
            }
        }
        self.flags.store(flags, Ordering::Relaxed);
    }

    pub(crate) fn settings(&self) -> Arc<LeakConfig> {
        self.settings.load_full()
    }

    pub(crate) fn duties(&self) -> Duties {
        Duties(self.flags.load(Ordering::Relaxed))
    }

    /// A number for another source.
    pub(crate) fn next_source(&self) -> u32 {
        self.sources.fetch_add(1, Ordering::Relaxed)
    }

    /// A record for a new connection.
    pub(crate) fn open(self: &Arc<Self>, source: u32) -> Arc<Record> {
        let record = Arc::new(Record::new(self, source));
        let mut records = self.records.lock();
        records.tidy();
        records.open.push(Arc::clone(&record));
        record
    }

    /// The connection is gone, or serves nobody any more.
    pub(crate) fn close(&self, record: &Arc<Record>) {
        let mut records = self.records.lock();
        let Records { open, retired } = &mut *records;
        open.retain(|known| {
            let other = !Arc::ptr_eq(known, record);
            if !other {
                known.add_usage(retired);
            }
            other
        });
    }

    /// The records of a source, without those of connections that are gone.
    pub(crate) fn records(&self, source: u32) -> Vec<Arc<Record>> {
        let mut records = self.records.lock();
        records.tidy();
        let mine = records.open.iter().filter(|record| record.source == source);
        mine.cloned().collect()
    }

    /// The lease that this task has held for longest, and when anybody got one last.
    pub(crate) fn held_by(&self, task: u64, source: u32) -> Option<(Sight, Instant)> {
        let records = self.records.lock();
        let mine = records.open.iter().filter(|record| record.source == source);
        let out: Vec<_> = mine.filter_map(|record| record.sight(false)).collect();
        let latest = out.iter().map(|out| out.since).max()?;
        let held = out.into_iter().filter(|out| out.task == task);
        Some((held.min_by_key(|out| out.since)?, latest))
    }

    pub(crate) fn leases(&self) -> Leases {
        let now = Instant::now();
        let (open, usage) = {
            let mut records = self.records.lock();
            records.tidy();
            let mut usage = records.retired.clone();
            let mut open = Vec::new();
            for record in &records.open {
                record.add_usage(&mut usage);
                open.extend(record.sight(false));
            }
            (open, usage)
        };
        let mut open: Vec<_> = open.iter().map(|sight| OpenLease::of(sight, now)).collect();
        open.sort_by_key(|lease| std::cmp::Reverse(lease.held));
        Leases::new(open, usage, &self.counters)
    }

    /// Tells about a lease that has been out for too long.
    pub(crate) fn suspect(&self, suspect: &Arc<Suspect>) {
        self.counters.suspect(suspect.cause);
        let by = By {
            site: suspect.site,
            statement: suspect.statement,
        };
        self.sampled.want(by);
        self.set_flags();
        tracing::warn!(
            site = suspect.site.map(tracing::field::display),
            class = suspect.class.name(),
            held = ?suspect.held,
            cause = suspect.cause.name(),
            transaction = %suspect.transaction,
            backtrace = suspect.backtrace.as_deref(),
            "{suspect}"
        );
        self.observers.tell(|| Event::LeaseSuspect(Arc::clone(suspect)));
    }

    pub(crate) fn suspect_returned(&self, by: By, class: QueryClass, held: Duration) {
        self.counters.returned();
        tracing::info!(
            site = by.site.map(tracing::field::display),
            class = class.name(),
            "a suspect lease came back after {held:.1?}"
        );
        self.observers.tell(|| Event::SuspectReturned {
            site: by.site,
            statement: by.statement,
            class,
            held,
        });
    }

    pub(crate) fn revoked(&self, suspect: &Arc<Suspect>) {
        self.counters.revoked();
        tracing::error!(
            site = suspect.site.map(tracing::field::display),
            class = suspect.class.name(),
            "taken back: {suspect}"
        );
        self.observers.tell(|| Event::LeaseRevoked(Arc::clone(suspect)));
    }

    pub(crate) fn would_revoke(&self, suspect: &Arc<Suspect>) {
        self.counters.would_revoke();
        self.observers.tell(|| Event::WouldRevoke(Arc::clone(suspect)));
    }

    pub(crate) fn nested(&self, by: By, holds: &Sight, refused: bool) {
        self.counters.nested(refused);
        tracing::warn!(
            site = by.site.map(tracing::field::display),
            holds = holds.by.site.map(tracing::field::display),
            refused,
            "a task that holds a lease waits for another one of an exhausted pool"
        );
        self.observers.tell(|| Event::NestedAcquire {
            site: by.site,
            statement: by.statement,
            holds: holds.by.site,
            refused,
        });
    }
}

impl Records {
    /// Lets go of records that nobody else has: their connections are gone.
    fn tidy(&mut self) {
        let Self { open, retired } = self;
        open.retain(|record| {
            let lives = Arc::strong_count(record) > 1;
            if !lives {
                record.add_usage(retired);
            }
            lives
        });
    }
}
