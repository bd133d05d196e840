//! The layers in their order, erased once.

use crate::fair::fair;
use db_cache::WriteLayer;
use db_core::{Call, Result, Rows, Run, Service, Statement};
use db_health::{Breaker, BreakerLayer};
use db_leak::Leak;
use db_metrics::ObserveLayer;
use db_pool::Pool;
use db_retry::RetryLayer;
use db_timeout::TimeoutLayer;
use futures_core::future::BoxFuture;
use tower::ServiceBuilder;

/// The whole stack behind one pointer: the only place where a call's future is boxed.
pub(crate) trait Stack: Send + Sync {
    fn call<'a>(&'a self, call: &'a Call, statement: &'a Statement) -> BoxFuture<'a, Result<Rows>>;
}

impl<S: Service<Statement>> Stack for S {
    fn call<'a>(&'a self, call: &'a Call, statement: &'a Statement) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(fair(Service::call(self, call, statement)))
    }
}

/// From the outside in.
pub(crate) fn assemble(
    observe: ObserveLayer,
    leases: Leak<Pool>,
    timeouts: TimeoutLayer,
    retries: RetryLayer,
    breaker: Breaker,
    writes: WriteLayer,
) -> Box<dyn Stack> {
    let layers = ServiceBuilder::new()
        .layer(observe)
        .layer(timeouts)
        .layer(retries)
        .layer(BreakerLayer::new(breaker))
        // Next to what runs: there every attempt's outcome is seen.
        .layer(writes);
    Box::new(layers.service(Run(leases)))
}
