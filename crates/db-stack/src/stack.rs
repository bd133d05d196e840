//! The layers in their order, erased once.

use crate::fair::fair;
use crate::node::NodeStack;
use db_core::{Call, Result, Rows, Service, Statement};
use db_metrics::ObserveLayer;
use db_replica::Routed;
use db_retry::RetryLayer;
use db_timeout::TimeoutLayer;
use futures_core::future::BoxFuture;
use std::pin::pin;
use tower::ServiceBuilder;

/// The whole stack behind one pointer: the only place where a call's future is boxed.
pub(crate) trait Stack: Send + Sync {
    fn call<'a>(&'a self, call: &'a Call, statement: &'a Statement) -> BoxFuture<'a, Result<Rows>>;
}

impl<S: Service<Statement>> Stack for S {
    fn call<'a>(&'a self, call: &'a Call, statement: &'a Statement) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            let mut call = pin!(Service::call(self, call, statement));
            fair(call.as_mut()).await
        })
    }
}

/// From the outside in.
pub(crate) fn assemble(
    observe: ObserveLayer,
    timeouts: TimeoutLayer,
    retries: RetryLayer,
    replicas: Routed<NodeStack>,
) -> Box<dyn Stack> {
    Box::new(
        ServiceBuilder::new()
            .layer(observe)
            .layer(timeouts)
            .layer(retries)
            .service(replicas),
    )
}
