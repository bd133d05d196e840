//! Where the stack and the cache meet: raw connections, what the background work runs on, and its end.

use crate::{Db, db::Inner, lease::Lease};
use arc_swap::ArcSwap;
use db_cache::{Cache, KeySeed};
use db_core::{AcquireError, AcquireFailure, Call, Fingerprint, Result, Source, Statement};
use db_pool::PoolLease;
use parking_lot::Mutex;
use sqlx::postgres::PgListener;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::AbortHandle;

/// Statements that may have a policy of their own.
const POLICIES: usize = 10_000;

/// What belongs to the cache of one database beside the engine.
pub(crate) struct CacheTask {
    pub(crate) cache: Cache,
    seed: KeySeed,
    policies: ArcSwap<HashMap<Fingerprint, Duration>>,
    task: Mutex<Option<AbortHandle>>,
    /// Connections that are lent out and only listen.
    listeners: AtomicU32,
    /// Somebody who may write has had a connection of sqlx's own pool.
    lent: AtomicBool,
}

impl CacheTask {
    pub(crate) fn new(cache: Cache) -> Self {
        Self {
            cache,
            // One database, one role, one set of session settings: they are those of the handle.
            seed: KeySeed::random(&[]),
            policies: ArcSwap::default(),
            task: Mutex::new(None),
            listeners: AtomicU32::new(0),
            lent: AtomicBool::new(false),
        }
    }

    pub(crate) fn seed(&self) -> &KeySeed {
        &self.seed
    }

    pub(crate) fn policy(&self, statement: &Statement, class: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
        let policies = self.policies.load();
        policies.get(&statement.facts().fingerprint()).copied().or_else(class)
    }

    pub(crate) fn set_policy(&self, statement: Fingerprint, ttl: Option<Duration>) {
        self.policies.rcu(|policies| {
            let mut policies = HashMap::clone(policies);
            match ttl {
                Some(ttl) if policies.len() < POLICIES || policies.contains_key(&statement) => {
                    policies.insert(statement, ttl);
                }
                Some(_) => tracing::warn!("more than {POLICIES} cache policies: this one is left out"),
                None => drop(policies.remove(&statement)),
            }
            policies
        });
    }

    /// Whether somebody may have written over a connection of sqlx's own pool, which tells nobody when it comes back: then
    /// nobody knows what a replica would have to show.
    pub(crate) fn has_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }

    /// Ends the background work, and forgets what it knew. It begins anew with the next cached query, if there is one.
    pub(crate) fn stop(&self) {
        let mut task = self.task.lock();
        if let Some(task) = task.take() {
            task.abort();
        }
        self.cache.moved();
    }
}

impl Drop for CacheTask {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl Db {
    /// The cache, with its background work under way.
    pub(crate) fn cache_engine(&self) -> &Cache {
        let cached = &self.inner.cached;
        if !cached.cache.is_served() {
            self.serve_cache();
        }
        &cached.cache
    }

    #[cold]
    fn serve_cache(&self) {
        let cached = &self.inner.cached;
        let mut task = cached.task.lock();
        // Outside of a runtime nothing is served, and so nothing kept.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.is_closed() || !cached.cache.serving() {
            return;
        }
        let weak = Arc::downgrade(&self.inner);
        let writers = Weak::clone(&weak);
        cached
            .cache
            .other_writers(move || writers.upgrade().is_some_and(|inner| inner.lends_to_writers()));
        let source = Lending(Weak::clone(&weak));
        let connect = move || {
            let inner = weak.upgrade();
            async move {
                let inner = inner.ok_or(sqlx::Error::PoolClosed)?;
                let pool = inner.pool.clone();
                drop(inner);
                PgListener::connect_with(&pool.aside().await?).await
            }
        };
        let mut epochs = self.inner.pool.epochs();
        let cache = cached.cache.clone();
        let serving = runtime.spawn(async move {
            tokio::select! {
                () = cache.clone().serve(source, connect) => {}
                // What was heard until now was heard from another server. The next cached query begins anew.
                Ok(()) = epochs.changed() => {}
            }
            cache.moved();
        });
        if let Some(before) = task.replace(serving.abort_handle()) {
            before.abort();
        }
    }
}

impl Inner {
    /// Whether a connection is out through sqlx's own pool with somebody who may write: for COPY or a transaction of
    /// sqlx's.
    pub(crate) fn lends_to_writers(&self) -> bool {
        self.pool.stats().lent > self.cached.listeners.load(Ordering::SeqCst)
    }

    /// From now on somebody has a connection of sqlx's own pool.
    pub(crate) fn lent_to_writer(&self) {
        self.cached.lent.store(true, Ordering::SeqCst);
        drop(self.cached.cache.writer());
    }
}

/// Nothing is kept or given out of memory until this connection is clean again, or gone: anything may be written on it
/// at any moment.
pub(crate) fn hold_for_raw(cache: &Cache, lease: &mut Lease) {
    let writer = cache.writer();
    lease.0.get_mut().on_end(move |clean| {
        if !clean {
            writer.gone_in_doubt();
        }
    });
}

/// A lent connection on which nobody writes.
pub(crate) struct ListensOnly(Arc<Inner>);

impl ListensOnly {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        inner.cached.listeners.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for ListensOnly {
    fn drop(&mut self) {
        self.0.cached.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Leases for the background work, which must not keep the database alive.
struct Lending(Weak<Inner>);

impl Source for Lending {
    type Lease = PoolLease;

    async fn acquire(&self, call: &Call) -> Result<PoolLease> {
        let Some(inner) = self.0.upgrade() else {
            return Err(AcquireError::new(AcquireFailure::Closed, Duration::ZERO).into());
        };
        Source::acquire(&inner.pool, call).await
    }
}
