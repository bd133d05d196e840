//! The pool's accounts: everything that the one lock guards. Plain functions, no waiting, no I/O.

use crate::{
    config::PoolConfig,
    conn::Conn,
    holders::{Caller, Holders, Standing},
    queue::{Queue, Waiter},
    stats::PoolStats,
};
use db_core::{AcquireError, AcquireFailure, CloseReason, ConnectFailure};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The most holders that an error names.
const HOLDERS_NAMED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// No lease is handed out any more; those out may still come back.
    Closed,
}

/// What a caller finds.
pub(crate) enum Checkout {
    /// A connection that was in use a moment ago.
    Ready(Box<Conn>),
    /// A connection that was idle long enough to be tested first.
    Test(Box<Conn>),
    /// Nothing idle.
    None,
}

/// What becomes of a connection that comes back.
pub(crate) enum Checkin {
    /// Straight to the next waiter.
    Serve(Waiter, Box<Conn>),
    /// Into the hot set.
    Kept,
    /// Out of the pool.
    Discard(Box<Conn>, CloseReason),
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Oldest first: the hot end is the back, so that an unneeded connection sinks and ages out.
    #[expect(clippy::vec_box, reason = "a connection moves between holders as a pointer")]
    pub(crate) idle: Vec<Box<Conn>>,
    pub(crate) queue: Queue,
    pub(crate) holders: Holders,
    /// The last failed attempt to connect, until one succeeds.
    pub(crate) failure: Option<Arc<ConnectFailure>>,
    /// Leases of an older epoch are closed when they come back.
    pub(crate) epoch: u64,
    /// Those of the lent places whose holders have not got their connection from the inner pool yet.
    pub(crate) lending: u32,
    pub(crate) stats: PoolStats,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Open,
            idle: Vec::new(),
            queue: Queue::default(),
            holders: Holders::default(),
            failure: None,
            epoch: 0,
            lending: 0,
            stats: PoolStats::default(),
        }
    }

    /// The hottest connection, unless it has outlived its time; those are moved to `ended`.
    pub(crate) fn checkout(
        &mut self,
        config: &PoolConfig,
        caller: Caller,
        now: Instant,
        ended: &mut Vec<(Box<Conn>, CloseReason)>,
    ) -> Checkout {
        while let Some(mut conn) = self.idle.pop() {
            let reason = if conn.epoch != self.epoch {
                CloseReason::Epoch
            } else if conn.expired(now) {
                CloseReason::Lifetime
            } else {
                self.lend(&mut conn, caller, now);
                return if conn.idle_for(now) > config.validate_after {
                    Checkout::Test(conn)
                } else {
                    Checkout::Ready(conn)
                };
            };
            self.forget(&conn, reason);
            ended.push((conn, reason));
        }
        Checkout::None
    }

    fn lend(&mut self, conn: &mut Conn, caller: Caller, now: Instant) {
        self.stats.acquires += 1;
        self.stats.in_use += 1;
        conn.serial = self.stats.acquires;
        conn.leased = now;
        self.holders.take(conn, caller);
    }

    /// A lease ends. One that was written off is in no account any more.
    pub(crate) fn end_lease(&mut self, conn: &Conn) -> Standing {
        let standing = self.holders.standing(conn);
        if standing != Standing::WrittenOff {
            self.stats.in_use -= 1;
            self.holders.give_back(conn.slot);
        }
        standing
    }

    /// A lease that is clean comes back, or a new connection arrives.
    pub(crate) fn checkin(&mut self, mut conn: Box<Conn>, config: &PoolConfig, now: Instant) -> Checkin {
        let reason = if self.phase == Phase::Closed {
            CloseReason::Closed
        } else if conn.epoch != self.epoch {
            CloseReason::Epoch
        } else if conn.expired(now) {
            CloseReason::Lifetime
        } else if self.open() > config.max_connections {
            CloseReason::Shrunk
        } else if let Some(waiter) = self.queue.pop() {
            self.lend(&mut conn, waiter.caller, now);
            return Checkin::Serve(waiter, conn);
        } else {
            self.idle.push(conn);
            return Checkin::Kept;
        };
        self.forget(&conn, reason);
        Checkin::Discard(conn, reason)
    }

    /// A connection leaves the pool.
    pub(crate) fn forget(&mut self, conn: &Conn, reason: CloseReason) {
        self.holders.close(conn.slot);
        self.stats.size -= 1;
        self.stats.closed[reason.index()] += 1;
    }

    /// All that counts against the budget: open, being opened, lent.
    pub(crate) fn open(&self) -> u32 {
        self.stats.size + self.stats.dialing + self.stats.lent
    }

    /// How many connections should be opened now.
    pub(crate) fn wanted(&self, config: &PoolConfig) -> u32 {
        if self.phase == Phase::Closed {
            return 0;
        }
        let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let demand = waiting
            .max(config.min_connections.saturating_sub(self.stats.size))
            .saturating_sub(self.stats.dialing);
        demand.min(config.max_connections.saturating_sub(self.open()))
    }

    /// The error for a caller that got nothing, with all that explains it.
    pub(crate) fn explain(
        &self,
        failure: AcquireFailure,
        waited: Duration,
        config: &PoolConfig,
        now: Instant,
    ) -> AcquireError {
        let mut error = AcquireError::new(failure, waited);
        error.size = self.stats.size;
        error.max = config.max_connections;
        error.waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        // A pool that could not grow is not exhausted: the reason is why it could not.
        if failure == AcquireFailure::TimedOut
            && self.stats.size + self.stats.lent < config.max_connections
            && let Some(cause) = &self.failure
        {
            error.failure = cause.failure;
            error.cause = Some(cause.clone());
        }
        error.holders = self.holders.longest(now, HOLDERS_NAMED);
        error
    }

    pub(crate) fn snapshot(&self, config: &PoolConfig) -> PoolStats {
        let mut stats = self.stats.clone();
        stats.idle = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        stats.waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        stats.max = config.max_connections;
        stats
    }
}
