//! The layer.

use crate::{policy::RetryPolicy, service::Retry};
use db_core::Layer;

/// Puts [`Retry`] around a service: `ServiceBuilder::new().layer(RetryLayer::new(policy))`.
///
/// Put it inside of caches and of the deadline that covers all attempts, outside of routing, breaker and the lease: each
/// attempt then finds its own node and connection. One such layer in a stack, and no retries in the callers: three times
/// three is nine.
#[derive(Clone, Debug, Default)]
pub struct RetryLayer {
    policy: RetryPolicy,
}

impl RetryLayer {
    /// A layer by this policy, of which the caller keeps a clone to read and reload.
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy }
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry {
            policy: self.policy.clone(),
            inner,
        }
    }
}
