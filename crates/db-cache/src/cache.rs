//! The handle: settings, entries, counters, and what may be dropped from them.

use crate::{
    books::{Books, CacheStats},
    catalogue::{Catalogue, Effect, Uncacheable},
    config::CacheConfig,
    flight::Flights,
    key::{Key, KeyBuilder},
    signal::Signals,
    store::Store,
    tier::{self, Sharing},
    versions::{Place, Versions},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use db_core::{
    CacheDrop, Event, Observers, StatementFacts,
    config::{Checks, InvalidConfig},
};
use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A cache of answers. Cheap to clone; all clones share entries and counts.
///
/// It runs nothing by itself: [`serve`](Self::serve) keeps it informed of the schema and of other writers, and whoever
/// joins it to a stack tells it of writes by [`writing`](Self::writing) and [`writer`](Self::writer).
#[derive(Clone)]
pub struct Cache {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: ArcSwap<CacheConfig>,
    pub(crate) store: ArcSwap<Store>,
    pub(crate) versions: Versions,
    pub(crate) flights: Arc<Flights>,
    pub(crate) catalogue: ArcSwapOption<Catalogue>,
    pub(crate) signals: Signals,
    pub(crate) books: Arc<Books>,
    pub(crate) observers: Observers,
    /// The store that is shared with other processes.
    pub(crate) tier: OnceLock<tier::Shared>,
    /// When somebody last asked for answers to be dropped, in microseconds since the start: what others had read before
    /// is not taken from them.
    asked: AtomicU64,
    start: Instant,
    /// Somebody has asked for a cached answer: from then on writes are looked at.
    pub(crate) in_use: AtomicBool,
    served: AtomicBool,
    /// A plain read may call something else than it seems to: even those are looked at.
    pub(crate) shadowed: AtomicBool,
}

impl Cache {
    /// An empty cache that tells `observers` what happens.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(config: CacheConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        check(&config)?;
        let books = Arc::new(Books::new());
        let shared = Shared {
            store: ArcSwap::from_pointee(Store::new(config.max_bytes(), &books)),
            signals: Signals::new(config.listen),
            config: ArcSwap::from_pointee(config),
            versions: Versions::new(),
            flights: Flights::new(),
            catalogue: ArcSwapOption::empty(),
            books,
            observers,
            tier: OnceLock::new(),
            asked: AtomicU64::new(0),
            start: Instant::now(),
            in_use: AtomicBool::new(false),
            served: AtomicBool::new(false),
            shadowed: AtomicBool::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Shares answers with other processes over a store such as Redis: those of queries that ask for it
    /// ([`Request::shared`](crate::Request::shared)), as far as every table that they depend on is watched. Needs `cache.listen`. Once; `false` when
    /// there is a store already.
    pub fn share(&self, sharing: Sharing) -> bool {
        let shared = tier::Shared::new(sharing, self.shared.observers.clone());
        self.shared.tier.set(shared).is_ok()
    }

    /// Begins the key of an answer that is shared, the same in every process; `None` without a store.
    pub fn shared_key(&self) -> Option<KeyBuilder> {
        Some(self.shared.tier.get()?.seed().key())
    }

    /// Swaps the settings. A new size begins with an empty store; `listen` is read when the background work starts.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: CacheConfig) -> Result<(), InvalidConfig> {
        check(&config)?;
        let shared = &self.shared;
        let before = shared.config.load_full();
        if before.max_mib != config.max_mib {
            shared
                .store
                .store(Arc::new(Store::new(config.max_bytes(), &shared.books)));
        }
        if before.mode != config.mode {
            // Nothing was looked after while it was off.
            shared.drop_all(CacheDrop::Asked);
        }
        shared.config.store(Arc::new(config));
        Ok(())
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<CacheConfig> {
        self.shared.config.load_full()
    }

    /// What has been counted so far, and what is in memory now.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.shared.books.read();
        (stats.entries, stats.bytes) = self.shared.store.load().size();
        stats.listening = self.shared.signals.listening();
        stats.trouble = self.shared.signals.trouble();
        stats.tier = self.shared.tier.get().map(tier::Shared::stats);
        stats
    }

    /// Drops every answer that depends on a table: `name` or `schema.name`, as in SQL. An unknown name drops all.
    pub fn invalidate_table(&self, name: &str) {
        let effect = match &*self.shared.catalogue.load() {
            Some(catalogue) => catalogue.written_by_name(name),
            None => Effect::Everything,
        };
        self.shared.apply(&effect, CacheDrop::Asked);
    }

    /// Drops every answer that was read under a tag.
    pub fn invalidate_tag(&self, tag: &str) {
        self.shared.drop_place(Place::tag(tag), CacheDrop::Asked);
    }

    /// Drops one answer. A read of it that is under way is not stopped.
    pub fn invalidate_key(&self, key: Key) {
        self.shared.store.load().remove(key);
        self.shared.tell_dropped(CacheDrop::Asked, Some(1));
    }

    /// Drops all answers, and gives their memory back.
    pub fn invalidate_all(&self) {
        self.shared.drop_all(CacheDrop::Asked);
        self.shared.store.load().clear();
    }

    /// The tables that tell of other processes' writes, as far as the schema is known.
    pub fn watched(&self) -> Vec<String> {
        self.shared
            .catalogue
            .load()
            .as_ref()
            .map(|catalogue| catalogue.watched())
            .unwrap_or_default()
    }

    /// Whether [`serve`](Self::serve) has been promised.
    pub fn is_served(&self) -> bool {
        self.shared.served.load(Ordering::Acquire)
    }

    /// Promises to call [`serve`](Self::serve); `false` when somebody has already.
    pub fn serving(&self) -> bool {
        !self.shared.served.swap(true, Ordering::AcqRel)
    }

    /// Somebody else who may write at any moment as long as this is true: then nothing is kept. Whoever gives such a
    /// writer its connection drops all that was kept before, by a short-lived [`writer`](Self::writer). Only the first
    /// one counts.
    pub fn other_writers(&self, writing: impl Fn() -> bool + Send + Sync + 'static) {
        self.shared.versions.other_writers(Box::new(writing));
    }

    /// Another server, role or session settings, or none any more: nothing that was kept is true. Whoever serves has
    /// stopped, and may promise it anew.
    pub fn moved(&self) {
        self.shared.schema_changed();
        self.shared.signals.lost();
        self.shared.store.load().clear();
        self.shared.served.store(false, Ordering::Release);
    }

    /// The same database is served by another server, as after a failover: nothing that was kept is true. Whoever serves
    /// goes on, and listens to the new one.
    pub fn failed_over(&self) {
        self.shared.signals.server_changed();
        self.shared.schema_changed();
        self.shared.store.load().clear();
    }

    /// Waits until the schema is known and other writers are heard of, or the first attempt has failed; at most
    /// `limit`. Returns whether answers are kept from now on.
    pub async fn ready(&self, limit: Duration) -> bool {
        let shared = &self.shared;
        shared.in_use.store(true, Ordering::SeqCst);
        let ready = || {
            shared.signals.wanted();
            shared.catalogue.load().is_some() && !shared.signals.starting()
        };
        shared.signals.wait_until(limit, ready).await && shared.signals.listening() != Some(false)
    }
}

impl Shared {
    /// Somebody asked for answers to be dropped: those in the shared store are as old.
    fn asked(&self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.asked.fetch_max(micros.saturating_add(1), Ordering::SeqCst);
    }

    /// Whether an answer that another process read at `born` is one that somebody here has asked to be dropped.
    pub(crate) fn asked_since(&self, born: Instant) -> bool {
        let micros = self.asked.load(Ordering::SeqCst);
        micros != 0 && born <= self.start + Duration::from_micros(micros)
    }

    /// What an answer to this statement depends on, and whether the server tells of every write of it.
    pub(crate) fn places(&self, facts: &StatementFacts, tags: &[Box<str>]) -> Result<(Vec<Place>, bool), Uncacheable> {
        let catalogue = self.catalogue.load();
        let catalogue = catalogue.as_ref().ok_or(Uncacheable::Unready)?;
        let (tables, opaque) = match catalogue.dependencies(facts) {
            Err(Uncacheable::Opaque) if !tags.is_empty() => (catalogue.known_dependencies(facts), true),
            tables => (tables?, false),
        };
        let watched = !opaque && tables.iter().all(|oid| catalogue.is_watched(*oid));
        let tables = tables.into_iter().map(Place::table);
        Ok((tables.chain(tags.iter().map(|tag| Place::tag(tag))).collect(), watched))
    }

    /// What running this statement may change.
    pub(crate) fn effect(&self, facts: &StatementFacts) -> Effect {
        match &*self.catalogue.load() {
            Some(catalogue) => catalogue.effect(facts),
            None => Effect::by_text(facts).unwrap_or(Effect::Everything),
        }
    }

    /// Drops what a write has reached.
    pub(crate) fn apply(&self, effect: &Effect, reason: CacheDrop) {
        match effect {
            Effect::Nothing => {}
            Effect::Tables(tables) => {
                for oid in tables {
                    self.moved(Place::table(*oid), reason);
                }
                self.tell_dropped(reason, Some(u32::try_from(tables.len()).unwrap_or(u32::MAX)));
            }
            Effect::Everything if reason == CacheDrop::Write => self.drop_all(CacheDrop::Anything),
            Effect::Everything => self.drop_all(reason),
            Effect::Schema => self.schema_changed(),
        }
    }

    /// Drops what a write may have reached, or may yet reach.
    pub(crate) fn apply_in_doubt(&self, effect: &Effect) {
        let doubt = self.config.load().in_doubt;
        match effect {
            Effect::Nothing => return,
            Effect::Tables(tables) => {
                let catalogue = self.catalogue.load();
                let told = |oid| {
                    self.signals.listening() == Some(true) && catalogue.as_ref().is_some_and(|c| c.is_watched(oid))
                };
                for oid in tables {
                    let place = Place::table(*oid);
                    // If it takes effect after all, the server will say so.
                    if told(*oid) {
                        self.versions.written(place);
                    } else {
                        self.versions.in_doubt(place, doubt);
                    }
                }
            }
            Effect::Everything => self.versions.in_doubt(Place::ALL, doubt),
            Effect::Schema => {
                self.versions.in_doubt(Place::ALL, doubt);
                self.schema_changed();
            }
        }
        self.tell_dropped(CacheDrop::InDoubt, None);
    }

    fn moved(&self, place: Place, reason: CacheDrop) {
        match reason {
            CacheDrop::Notified | CacheDrop::Gap => self.versions.heard(place),
            _ => self.versions.written(place),
        }
    }

    pub(crate) fn drop_place(&self, place: Place, reason: CacheDrop) {
        self.versions.written(place);
        self.tell_dropped(reason, Some(1));
    }

    pub(crate) fn drop_all(&self, reason: CacheDrop) {
        self.moved(Place::ALL, reason);
        self.tell_dropped(reason, None);
    }

    /// What is known of the schema is no longer true: nothing is kept until it has been read again.
    pub(crate) fn schema_changed(&self) {
        self.signals.schema_changed();
        self.catalogue.store(None);
        self.drop_all(CacheDrop::Schema);
    }

    pub(crate) fn tell_dropped(&self, reason: CacheDrop, what: Option<u32>) {
        self.books.dropped(reason);
        if reason == CacheDrop::Asked {
            self.asked();
        }
        self.observers.tell(|| Event::CacheInvalidated { reason, what });
    }
}

fn check(config: &CacheConfig) -> Result<(), InvalidConfig> {
    let mut checks = Checks::default();
    config.validate("cache", &mut checks);
    checks.finish()
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("mode", &self.shared.config.load().mode)
            .finish_non_exhaustive()
    }
}
