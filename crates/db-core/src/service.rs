//! Seam 1: what to run.

use crate::{Call, Operation, Result};
use std::{fmt, future::Future, sync::Arc};

/// Runs operations. A layer is a service that wraps another one.
///
/// `&self`, the call and the operation by reference: a retry clones nothing, and a layer is a plain `async fn`.
/// Compose with [`tower_layer::Layer`] and `tower::ServiceBuilder`; neither has a bound on the service trait.
/// Dropping the returned future abandons the call; the lease under it goes through quarantine.
pub trait Service<Op: Operation + ?Sized>: Send + Sync {
    /// Runs `op` to its end or to an error.
    fn call(&self, call: &Call, op: &Op) -> impl Future<Output = Result<Op::Output>> + Send;
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Arc<S> {
    fn call(&self, call: &Call, op: &Op) -> impl Future<Output = Result<Op::Output>> + Send {
        S::call(self, call, op)
    }
}

/// A service made of a closure; see [`service_fn`].
#[derive(Clone, Copy)]
pub struct ServiceFn<F>(F);

/// A service made of a closure that gets the call and answers without a connection: for tests and short-cuts.
pub fn service_fn<F>(answer: F) -> ServiceFn<F> {
    ServiceFn(answer)
}

impl<F> fmt::Debug for ServiceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceFn")
    }
}

impl<Op, F, Fut> Service<Op> for ServiceFn<F>
where
    Op: Operation + ?Sized,
    F: Fn(Call) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Op::Output>> + Send,
{
    fn call(&self, call: &Call, _: &Op) -> impl Future<Output = Result<Op::Output>> + Send {
        (self.0)(call.clone())
    }
}
