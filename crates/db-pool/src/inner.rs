//! The inner sqlx pool, for what is typed on `Pool<Postgres>`: `PgListener`, `Acquire::begin`, COPY on a pool. The only
//! file that touches `PoolOptions`: upstream is about to change it.

use crate::{config::PoolConfig, lease::PoolLease, shared::Shared};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Connections of the inner pool are closed when they come back: they belong to the budget of the warm pool. They run
/// the hooks of the pool that the warm pool was made from, if it was.
pub(crate) fn lazy(options: PgConnectOptions, config: &PoolConfig, shared: Weak<Shared>) -> PgPool {
    let hooks = shared
        .upgrade()
        .and_then(|shared| Some(shared.endpoint.load().hooks()?.options().clone()));
    hooks
        .unwrap_or_default()
        // The budget is kept by lending, and follows a reload; this one could not.
        .max_connections(config.max_connections.max(DIALS))
        .min_connections(0)
        .acquire_timeout(config.acquire_timeout)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .after_release(move |_, _| {
            let shared = shared.clone();
            Box::pin(async move {
                if let Some(shared) = shared.upgrade() {
                    shared.give_back_lent();
                }
                Ok(false)
            })
        })
        .connect_lazy_with(options)
}

/// Dials that run at once through a pool; sqlx allocates a place for each. More than `connect_parallelism` may be.
const DIALS: u32 = 1024;

/// A pool like the user's own, hooks included, that only dials: every connection is taken out of it at once.
pub(crate) fn dialler(pool: &PgPool, limit: Duration) -> PgPool {
    pool.options()
        .clone()
        .max_connections(DIALS)
        .min_connections(0)
        .acquire_timeout(limit)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .connect_lazy_with((*pool.connect_options()).clone())
}

/// One connection beside the budget, for what listens.
pub(crate) fn aside(options: PgConnectOptions, limit: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .min_connections(0)
        .acquire_timeout(limit)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// The limits of the user's own pool, as far as sqlx lets them be read.
pub(crate) fn limits(pool: &PgPool) -> PoolConfig {
    let options = pool.options();
    PoolConfig {
        max_connections: options.get_max_connections(),
        min_connections: options.get_min_connections(),
        acquire_timeout: options.get_acquire_timeout(),
        max_lifetime: options.get_max_lifetime(),
        idle_timeout: options.get_idle_timeout(),
        ..PoolConfig::default()
    }
}

/// One connection of the budget, lent to the inner pool; given back on drop unless the inner pool has taken it over.
#[must_use = "the place is given back when this is dropped"]
pub struct Lent(Option<Arc<Shared>>);

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lent")
    }
}

impl Lent {
    /// The inner pool has the connection now: its `after_release` gives it back.
    pub fn taken_over(mut self) {
        if let Some(shared) = self.0.take() {
            shared.state.lock().lending -= 1;
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            // An abandoned `begin` may have got its connection already: then that one gives the place back.
            shared.state.lock().lending -= 1;
            shared.reconcile_lent();
        }
    }
}

impl Shared {
    /// Takes one connection of the budget if there is room.
    pub(crate) fn try_lend(self: &Arc<Self>) -> Option<Lent> {
        let take = || {
            let mut state = self.state.lock();
            (state.open() < state.room).then(|| {
                state.stats.lent += 1;
                state.lending += 1;
                Lent(Some(self.clone()))
            })
        };
        take().or_else(|| {
            self.reconcile_lent();
            take()
        })
    }

    /// Turns a lease into a lent place: its connection goes, so that the inner pool may open one.
    pub(crate) fn lend(self: &Arc<Self>, lease: PoolLease) -> Lent {
        {
            let mut state = self.state.lock();
            state.stats.lent += 1;
            state.lending += 1;
        }
        let lent = Lent(Some(self.clone()));
        lease.discard(db_core::CloseReason::Shrunk);
        lent
    }

    /// The inner pool has let a connection go.
    pub(crate) fn give_back_lent(&self) {
        {
            let mut state = self.state.lock();
            state.stats.lent = state.stats.lent.saturating_sub(1);
        }
        self.demand.notify_one();
    }

    /// The inner pool forgets to say so when a connection is detached from it or breaks: its size tells. Its size
    /// lacks the places of those who are about to ask it for a connection.
    pub(crate) fn reconcile_lent(&self) {
        let gone = {
            let mut state = self.state.lock();
            let before = state.stats.lent;
            let size = self.inner.get().map_or(0, PgPool::size);
            state.stats.lent = before.min(state.lending + size);
            before != state.stats.lent
        };
        if gone {
            self.demand.notify_one();
        }
    }
}
