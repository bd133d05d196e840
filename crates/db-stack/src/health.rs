//! The health of a database: reports, liveness, readiness, and a new beginning.

use crate::Db;
use db_core::{Holder, Result};
use db_health::{
    Boxed, BreakerStats, CallFacts, Check, HealthReport, Liveness, PoolFacts, Readiness, Reserved, Subject,
};
use db_pool::Pool;
use db_timeout::TimeoutLayer;
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

impl Db {
    /// Examines everything, side by side, within `health.report_timeout`: on a connection beside the pool, so that it
    /// works when the pool is exhausted. Cancel-safe.
    pub async fn health(&self) -> HealthReport {
        self.inner.health.report().await
    }

    /// Whether the process should go on living. Never asks the database.
    pub fn liveness(&self) -> Liveness {
        self.inner.health.liveness()
    }

    /// Whether the service should get traffic, as far as its database is concerned. A busy pool is ready.
    pub fn readiness(&self) -> Readiness {
        self.inner.health.readiness()
    }

    /// Refuses readiness from now on, while calls go on being served: the first step of an orderly end.
    pub fn drain(&self) {
        self.inner.health.drain();
    }

    /// Adds a check of the user's own to each report, in place of one of the same name.
    pub fn add_health_check(&self, check: Arc<dyn Check>) {
        self.inner.health.add(check);
    }

    /// `GET /livez`, `/readyz` and `/healthz`, ready for Kubernetes.
    #[cfg(feature = "axum")]
    pub fn health_router(&self) -> axum::Router {
        self.inner.health.router()
    }

    /// A new beginning by hand: once a new connection has been opened, with fresh options and a fresh look at the name,
    /// all others are closed as they come back. Nobody is failed by it. Cancel-safe. Returns the new epoch.
    ///
    /// # Errors
    /// The real reason why there is no new connection; everything then stays as it is.
    pub async fn reconnect(&self) -> Result<u64> {
        self.inner.pool.reconnect().await
    }
}

/// What the checks look at.
pub(crate) struct Patient {
    pub(crate) pool: Pool,
    pub(crate) timeouts: TimeoutLayer,
    pub(crate) breaker: db_health::Breaker,
    /// Where the server's name led when it was looked up last.
    pub(crate) addresses: parking_lot::Mutex<BTreeSet<SocketAddr>>,
}

impl Subject for Patient {
    fn connect(&self, limit: Duration) -> Boxed<'_, Result<Reserved>> {
        Box::pin(async move { Ok(Box::new(self.pool.beside(limit).await?) as Reserved) })
    }

    fn pool(&self) -> PoolFacts {
        let stats = self.pool.stats();
        PoolFacts {
            in_use: stats.in_use,
            max: stats.max,
            waiting: stats.waiting,
            waits: stats.waits,
            wait_time: stats.wait_time,
            failures: stats.timeouts + stats.refused,
        }
    }

    fn holders(&self) -> Vec<Holder> {
        self.pool.holders()
    }

    fn calls(&self) -> CallFacts {
        let mut facts = CallFacts::default();
        for class in self.timeouts.stats().classes() {
            facts.ended += class.counts.finished + class.counts.failed + class.counts.timed_out;
            facts.slow += class.counts.slow;
        }
        facts
    }

    fn breaker(&self) -> BreakerStats {
        self.breaker.stats()
    }

    fn epoch(&self) -> u64 {
        self.pool.epoch()
    }

    fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }

    /// When the server's name leads somewhere else entirely, the connections follow.
    fn look_after(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            let Some(found) = self.pool.addresses().await.filter(|found| !found.is_empty()) else {
                return;
            };
            let moved = {
                let mut known = self.addresses.lock();
                // Of several addresses not all are told each time: only an answer without any of them is a move.
                let moved = !known.is_empty() && known.is_disjoint(&found);
                *known = found;
                moved
            };
            if moved {
                let moved = self.pool.reconnect().await;
                tracing::info!(ok = moved.is_ok(), "the name of the database leads to other addresses");
            }
        })
    }
}
