//! The pool's figures.

use db_core::{CloseReason, Priority, ShedReason};
use std::{fmt, time::Duration};

/// The figures of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PriorityStats {
    /// Leases held by its callers.
    pub in_use: u32,
    /// Its callers that wait.
    pub waiting: u32,
    /// Connections that the others leave free for it, scaled to the limit in force.
    pub floor: u32,
    /// Connections that it uses at most while others wait, scaled to the limit in force.
    pub ceiling: u32,
    /// Connections that less urgent ones leave free for it beyond what it uses, scaled likewise.
    pub spare: u32,
    /// Its callers that had to wait.
    pub waits: u64,
    /// Its callers that were refused or shed.
    pub shed: u64,
}

/// A consistent snapshot of one pool. Counters run since the pool was made.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Open connections: idle, in use and in quarantine.
    pub size: u32,
    /// Connections in the hot set.
    pub idle: u32,
    /// Leases held by callers.
    pub in_use: u32,
    /// Connections being made clean.
    pub quarantined: u32,
    /// Connections being opened.
    pub dialing: u32,
    /// Connections of the budget that are lent to the inner sqlx pool.
    pub lent: u32,
    /// Callers waiting for a lease.
    pub waiting: u32,
    /// The most connections that may be open.
    pub max: u32,
    /// The most leases that may be in use at this moment.
    pub limit: u32,
    /// Whether the queue stands: it serves those who came last first, and sheds those who have waited for too long.
    pub standing: bool,
    /// Places that are kept free for priorities that have asked lately.
    pub unlent_floors: u32,
    /// Leases handed out.
    pub acquires: u64,
    /// Leases that were waited for.
    pub waits: u64,
    /// Time spent waiting for a lease, in total.
    pub wait_time: Duration,
    /// Callers that waited in vain until their limit.
    pub timeouts: u64,
    /// Callers that were refused because the queue was full.
    pub refused: u64,
    /// Callers that were shed, by [`ShedReason::index`].
    pub shed: [u64; ShedReason::ALL.len()],
    /// By [`Priority::index`].
    pub priorities: [PriorityStats; Priority::ALL.len()],
    /// Connections opened.
    pub connects: u64,
    /// Attempts to open one that failed.
    pub connect_failures: u64,
    /// Leases made clean and reused.
    pub cleaned: u64,
    /// Statements cancelled on the server because their caller had gone.
    pub cancelled: u64,
    /// Connections closed, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl PoolStats {
    /// Connections closed for one reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Callers shed for one reason.
    pub fn shed_for(&self, reason: ShedReason) -> u64 {
        self.shed[reason.index()]
    }

    /// The figures of one priority.
    pub fn of(&self, priority: Priority) -> PriorityStats {
        self.priorities[priority.index()]
    }
}

impl fmt::Debug for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("PoolStats");
        out.field("size", &self.size)
            .field("idle", &self.idle)
            .field("in_use", &self.in_use)
            .field("quarantined", &self.quarantined)
            .field("dialing", &self.dialing)
            .field("lent", &self.lent)
            .field("waiting", &self.waiting)
            .field("max", &self.max)
            .field("limit", &self.limit)
            .field("shed", &self.shed)
            .field("acquires", &self.acquires)
            .field("waits", &self.waits)
            .field("wait_time", &self.wait_time)
            .field("timeouts", &self.timeouts)
            .field("refused", &self.refused)
            .field("connects", &self.connects)
            .field("connect_failures", &self.connect_failures)
            .field("cleaned", &self.cleaned)
            .field("cancelled", &self.cancelled);
        for reason in CloseReason::ALL {
            if self.closed_for(reason) > 0 {
                out.field(reason.name(), &self.closed_for(reason));
            }
        }
        out.finish()
    }
}
