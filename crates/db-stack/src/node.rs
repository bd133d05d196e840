//! The inner stack of one node: what stands between a call and a lease of it.

use crate::{config::DbConfig, endpoint, lease::Lease};
use db_cache::{Cache, WatchWrites};
use db_core::{Call, Layer, Observers, Operation, Result, Run, Service};
use db_health::{Breaker, BreakerLayer, Guarded};
use db_leak::{Leak, LeakLayer};
use db_pool::Pool;

/// What the stacks of all nodes share.
#[derive(Clone)]
pub(crate) struct NodeParts {
    pub(crate) leaks: LeakLayer,
    pub(crate) cache: Cache,
    pub(crate) observers: Observers,
}

/// One node, from its breaker down. With replicas there is one for each node, and one that follows the primary.
#[derive(Clone)]
pub(crate) struct NodeStack {
    pub(crate) pool: Pool,
    pub(crate) breaker: Breaker,
    leases: Leak<Pool>,
    service: Guarded<WatchWrites<Run<Leak<Pool>>>>,
}

impl NodeStack {
    /// A node with a breaker of its own.
    pub(crate) fn new(pool: Pool, config: &DbConfig, parts: &NodeParts) -> Result<Self> {
        let breaker = endpoint::breaker(&pool, config.breaker.clone(), parts.observers.clone())?;
        Ok(Self::behind(parts.leaks.layer(pool), breaker, parts))
    }

    /// A node with this breaker. A pool has one account of its leases: kept twice, neither would know who holds what.
    pub(crate) fn behind(leases: Leak<Pool>, breaker: Breaker, parts: &NodeParts) -> Self {
        // Next to what runs: there every attempt's outcome is seen.
        let watched = parts.cache.write_layer().layer(Run(leases.clone()));
        Self {
            service: BreakerLayer::new(breaker.clone()).layer(watched),
            pool: leases.get_ref().clone(),
            breaker,
            leases,
        }
    }

    /// A lease for this call, unless the breaker knows that there is no hope.
    pub(crate) async fn acquire(&self, call: &Call) -> Result<Lease> {
        Ok(Lease(self.breaker.acquire(&self.leases, call).await?))
    }
}

impl<Op: Operation + ?Sized> Service<Op> for NodeStack {
    fn call(&self, call: &Call, op: &Op) -> impl Future<Output = Result<Op::Output>> + Send {
        self.service.call(call, op)
    }
}
