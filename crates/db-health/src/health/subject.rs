//! What is examined, as the checks see it.

use crate::breaker::{Boxed, BreakerStats};
use db_core::{Holder, Result};
use sqlx::PgConnection;
use std::{ops::DerefMut, time::Duration};

/// A connection beside the pool.
pub type Reserved = Box<dyn DerefMut<Target = PgConnection> + Send>;

/// One database with its pool and breaker.
pub trait Subject: Send + Sync + 'static {
    /// Opens a connection that does not count against the pool, within `limit`.
    fn connect(&self, limit: Duration) -> Boxed<'_, Result<Reserved>>;

    /// The pool's figures.
    fn pool(&self) -> PoolFacts;

    /// Those who hold a lease, longest first.
    fn holders(&self) -> Vec<Holder>;

    /// The calls' figures.
    fn calls(&self) -> CallFacts;

    /// The breaker's figures.
    fn breaker(&self) -> BreakerStats;

    /// Grows when the endpoint becomes another one: a connection of before leads to where it was.
    fn epoch(&self) -> u64 {
        0
    }

    /// Whether no call is taken any more.
    fn is_closed(&self) -> bool;

    /// Whether all background tasks that should run do run.
    fn is_alive(&self) -> bool;

    /// Called by the monitor after each probe that went well, for what else has to be looked after; bounded by
    /// [`HealthConfig::timeout`](crate::HealthConfig::timeout).
    fn look_after(&self) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A pool at this moment. Counters run since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// Connections in use.
    pub in_use: u32,
    /// The most that may be open.
    pub max: u32,
    /// Callers waiting.
    pub waiting: u32,
    /// Leases waited for.
    pub waits: u64,
    /// Time spent waiting for them.
    pub wait_time: Duration,
    /// Callers that got none.
    pub failures: u64,
}

/// Calls since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallFacts {
    /// Those that ended.
    pub ended: u64,
    /// Of these, slower than their class alerts at.
    pub slow: u64,
}
