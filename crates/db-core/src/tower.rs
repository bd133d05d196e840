//! Between our services and tower's, both ways: the feature `tower`.
//!
//! Where a program has middleware of its own for `tower::Service`, it can stand above our layers ([`IntoTower`]) or below
//! them ([`FromTower`]). The price is what our own seam saves: a clone of call and operation for each request, and a box
//! for each future.

use crate::{Call, Error, Operation, Result, Service};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One of our services as a `tower::Service` of pairs of a call and an operation.
///
/// It is always ready: what a request waits for (a place in a queue, a lease) is waited for in its future. Dropping that
/// future abandons the call, as everywhere.
pub struct IntoTower<S>(Arc<S>);

impl<S> IntoTower<S> {
    /// Shares `service` among the clones of the adapter.
    pub fn new(service: S) -> Self {
        Self(Arc::new(service))
    }
}

impl<S> Clone for IntoTower<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for IntoTower<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntoTower")
    }
}

impl<S, Op> tower_service::Service<(Call, Op)> for IntoTower<S>
where
    S: Service<Op> + 'static,
    Op: Operation + 'static,
{
    type Response = Op::Output;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Op::Output>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (call, op): (Call, Op)) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.call(&call, &op).await })
    }
}

/// A `tower::Service` of such pairs as one of our services, under our layers.
///
/// Each call clones the service and waits until the clone is ready: a permit that `poll_ready` took is used by that call
/// or given back by the drop of the clone. An error that is ours comes back as it was, any other one as
/// [`Error::Client`]: nothing is known about what was sent, so nothing above repeats it.
#[derive(Clone, Debug)]
pub struct FromTower<T>(T);

impl<T> FromTower<T> {
    /// Wraps `service`.
    pub fn new(service: T) -> Self {
        Self(service)
    }
}

impl<T, Op> Service<Op> for FromTower<T>
where
    Op: Operation + Clone,
    T: tower_service::Service<(Call, Op), Response = Op::Output, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync,
{
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let mut service = self.0.clone();
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(ours)?;
        service.call((call.clone(), op.clone())).await.map_err(ours)
    }
}

fn ours(error: impl Into<BoxError>) -> Error {
    match error.into().downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::Client(sqlx::Error::AnyDriverError(error)),
    }
}
