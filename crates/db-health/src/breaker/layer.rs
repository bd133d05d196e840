//! The layer: around a service of calls, and around a source of leases.

use super::{handle::Breaker, permit::Permit};
use db_core::{Call, Layer, Operation, Result, Service, Source};

/// Puts [`Guarded`] around a service or a source. One breaker for each endpoint: a layer is a handle to its breaker, so
/// it costs two pointers.
#[derive(Clone, Debug, Default)]
pub struct BreakerLayer {
    breaker: Breaker,
}

impl BreakerLayer {
    /// A layer of this breaker, of which the caller keeps a clone to read and steer.
    pub fn new(breaker: Breaker) -> Self {
        Self { breaker }
    }

    /// The breaker.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            breaker: self.breaker.clone(),
            inner,
        }
    }
}

/// A service, or a source, behind a breaker. Made by [`BreakerLayer`].
///
/// Cancel-safe: a dropped call gives its permit back.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    breaker: Breaker,
    inner: S,
}

impl<S> Guarded<S> {
    /// What is behind the breaker.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Guarded<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let mut guard = Streamed {
            permit: Some(self.breaker.admit(call)?),
            op,
        };
        let out = self.inner.call(call, op).await;
        if let Some(permit) = guard.permit.take() {
            permit.settle(out.as_ref().err());
        }
        out
    }
}

/// A call under its permit. Given up while its caller was reading rows, it says nothing bad about the endpoint.
struct Streamed<'a, Op: Operation + ?Sized> {
    permit: Option<Permit<'a>>,
    op: &'a Op,
}

impl<Op: Operation + ?Sized> Drop for Streamed<'_, Op> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take_if(|_| !self.op.replayable()) {
            permit.unknown();
        }
    }
}

impl<S: Source> Source for Guarded<S> {
    type Lease = S::Lease;

    async fn acquire(&self, call: &Call) -> Result<S::Lease> {
        self.breaker.acquire(&self.inner, call).await
    }
}
