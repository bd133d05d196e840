//! The layers around a service: one that watches writes, one that keeps answers that can be cloned.

use crate::{
    cache::Cache,
    key::Key,
    lead::Outcome,
    request::{Begin, Policy, Request},
    writes::Wrote,
};
use db_core::{Call, Layer, Operation, Result, Service};
use std::{any::Any, sync::Arc};

/// Tells the cache of every write that passes. It belongs inside of retries and time limits, next to what runs the
/// operation: there each attempt's outcome is seen, and a dropped attempt is seen as one.
#[derive(Clone, Debug)]
pub struct WriteLayer {
    cache: Cache,
}

/// A service whose writes the cache is told of. Made by [`WriteLayer`].
#[derive(Clone, Debug)]
pub struct WatchWrites<S> {
    cache: Cache,
    inner: S,
}

impl Cache {
    /// The layer that tells this cache of writes.
    pub fn write_layer(&self) -> WriteLayer {
        WriteLayer { cache: self.clone() }
    }

    /// The layer that keeps the answers of operations whose output can be cloned.
    pub fn layer(&self) -> CacheLayer {
        CacheLayer { cache: self.clone() }
    }
}

impl<S> Layer<S> for WriteLayer {
    type Service = WatchWrites<S>;

    fn layer(&self, inner: S) -> WatchWrites<S> {
        WatchWrites {
            cache: self.cache.clone(),
            inner,
        }
    }
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for WatchWrites<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let Some(writing) = self.cache.writing(op.facts()) else {
            return self.inner.call(call, op).await;
        };
        let out = self.inner.call(call, op).await;
        writing.end(Wrote::of(&out, op.all_or_nothing()));
        out
    }
}

/// An operation whose answer may be kept: its output can be cloned, and it says what decides it.
pub trait Cacheable: Operation<Output: Clone + Any + Send + Sync> {
    /// Which answer it asks for; `None` runs it each time.
    fn key(&self) -> Option<Key>;

    /// For how long, and under which tags. An operation without facts is opaque: it needs a tag.
    fn policy(&self) -> &Policy;

    /// About what its output takes in memory, in bytes; for the bound of the whole.
    fn bytes(output: &Self::Output) -> usize;
}

/// Puts [`Cached`] around a service. Made by [`Cache::layer`].
#[derive(Clone, Debug)]
pub struct CacheLayer {
    cache: Cache,
}

/// A service that answers from memory where it may.
#[derive(Clone, Debug)]
pub struct Cached<S> {
    cache: Cache,
    inner: S,
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cached<S>;

    fn layer(&self, inner: S) -> Cached<S> {
        Cached {
            cache: self.cache.clone(),
            inner,
        }
    }
}

impl<S: Service<Op>, Op: Cacheable> Service<Op> for Cached<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let (Some(key), Some(facts)) = (op.key(), op.facts()) else {
            return self.inner.call(call, op).await;
        };
        let request = Request {
            class: call.class,
            ..Request::new(key, facts, op.policy())
        };
        let lead = match self.cache.begin::<Op::Output>(&request).await? {
            Begin::Hit(answer) => return Ok(Op::Output::clone(&answer)),
            // The operation is borrowed: its caller reads again, the others have the old answer meanwhile.
            Begin::Refresh(_, lead) | Begin::Read(lead) => lead,
            Begin::Bypass(_) | Begin::Nothing(_) => return self.inner.call(call, op).await,
        };
        match lead.run(self.inner.call(call, op)).await {
            Outcome::Done(Ok(output)) => {
                let bytes = Op::bytes(&output);
                Ok(Op::Output::clone(&lead.fill(Arc::new(output), bytes, false)))
            }
            Outcome::Done(Err(error)) => match lead.fail::<Op::Output>(error)? {
                Some(answer) => Ok(Op::Output::clone(&answer)),
                None => self.inner.call(call, op).await,
            },
            Outcome::Trouble => match lead.stale::<Op::Output>() {
                Some(Some(answer)) => Ok(Op::Output::clone(&answer)),
                _ => self.inner.call(call, op).await,
            },
        }
    }
}
