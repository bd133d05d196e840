//! The words for trying again: why a call was repeated, and why it no longer was.

use crate::Error;
use std::time::Duration;

/// Why a failed attempt was, or would have been, repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RetryCause {
    /// 40001: concurrent transactions could not be put in an order.
    SerializationFailure,
    /// 40P01: this side of a deadlock had to give way.
    Deadlock,
    /// 55P03: the lock was not to be had in time. Repeated only on request.
    LockTimeout,
    /// 72000: the snapshot was too old.
    Snapshot,
    /// No connection could be opened, or the server took none: nothing was sent.
    NotConnected,
    /// The connection broke after the statement may have run.
    ConnectionLost,
    /// The server had too little of something: connections, memory.
    Overload,
    /// 0A000 of `RevalidateCachedQuery`: a prepared plan outlived a change of schema.
    StalePlan,
    /// 26000 or 42P05: client and server disagree about which prepared statements there are.
    LostPlan,
    /// 25006: the node does not take writes.
    WrongNode,
    /// A standby had to cancel the statement, or does not know the schema yet: the primary will do.
    Standby,
    /// The server had ended the session, or its transaction had failed, before the statement arrived.
    Session,
    /// What a caller's own error type asked for.
    Caller,
}

impl RetryCause {
    /// Every cause, in the order of [`RetryCause::index`].
    pub const ALL: [Self; 13] = [
        Self::SerializationFailure,
        Self::Deadlock,
        Self::LockTimeout,
        Self::Snapshot,
        Self::NotConnected,
        Self::ConnectionLost,
        Self::Overload,
        Self::StalePlan,
        Self::LostPlan,
        Self::WrongNode,
        Self::Standby,
        Self::Session,
        Self::Caller,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::SerializationFailure => "serialization_failure",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock_timeout",
            Self::Snapshot => "snapshot",
            Self::NotConnected => "not_connected",
            Self::ConnectionLost => "connection_lost",
            Self::Overload => "overload",
            Self::StalePlan => "stale_plan",
            Self::LostPlan => "lost_plan",
            Self::WrongNode => "wrong_node",
            Self::Standby => "standby",
            Self::Session => "session",
            Self::Caller => "caller",
        }
    }

    /// Whether concurrent transactions got in each other's way on a server that is otherwise well.
    pub fn is_contention(self) -> bool {
        matches!(
            self,
            Self::SerializationFailure | Self::Deadlock | Self::LockTimeout | Self::Snapshot
        )
    }
}

/// Why a call that failed for a passing reason was not repeated (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GaveUp {
    /// The budget that all callers share was spent.
    Budget,
    /// The pause would have lasted to the caller's deadline or beyond.
    Deadline,
    /// It had been tried as often as allowed.
    Attempts,
    /// It may have taken effect and must not happen twice, or rows of it had been handed out.
    NotSafe,
}

impl GaveUp {
    /// Every reason, in the order of [`GaveUp::index`].
    pub const ALL: [Self; 4] = [Self::Budget, Self::Deadline, Self::Attempts, Self::NotSafe];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::Attempts => "attempts",
            Self::NotSafe => "not_safe",
        }
    }
}

impl Error {
    /// How long whoever refused the call asked to be left alone, if it said so; another try before that is useless.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Acquire(acquire) => acquire.retry_after,
            Self::Breaker(open) => open.retry_after,
            _ => None,
        }
    }
}
