//! The words of the circuit breaker: in which state it is, why it opened, and what it says to those it refuses.

use std::{fmt, time::Duration};

/// In which state a breaker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls pass and are counted.
    #[default]
    Closed,
    /// Calls are refused until the next probe.
    Open,
    /// A probe is on its way, or a few calls are let through to see how they fare.
    HalfOpen,
    /// Calls are refused until somebody says otherwise.
    ForcedOpen,
    /// Calls pass and nothing is counted.
    Disabled,
}

impl BreakerState {
    /// Every state, in the order of [`BreakerState::index`].
    pub const ALL: [Self; 5] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Disabled,
    ];

    /// A small number for tables and gauges.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
    }
}

/// What counts against an endpoint, and so why its breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BreakerCause {
    /// No connection could be opened.
    Connect,
    /// A connection broke, or SQLSTATE class 08.
    ConnectionLost,
    /// SQLSTATE 57P0x: the server goes down, comes up or ends sessions.
    Shutdown,
    /// SQLSTATE class 53: the server has too little of something.
    Overload,
    /// SQLSTATE class 58: the system around the server failed.
    System,
    /// Calls passed their time limit while the server had them.
    Timeout,
    /// SQLSTATE 25006: the node takes no writes.
    WrongNode,
    /// Calls were answered, but too slowly.
    Slow,
    /// Somebody opened it by hand.
    Forced,
}

impl BreakerCause {
    /// Every cause, in the order of [`BreakerCause::index`].
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::ConnectionLost,
        Self::Shutdown,
        Self::Overload,
        Self::System,
        Self::Timeout,
        Self::WrongNode,
        Self::Slow,
        Self::Forced,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectionLost => "connection_lost",
            Self::Shutdown => "shutdown",
            Self::Overload => "overload",
            Self::System => "system",
            Self::Timeout => "timeout",
            Self::WrongNode => "wrong_node",
            Self::Slow => "slow",
            Self::Forced => "forced",
        }
    }
}

impl fmt::Display for BreakerCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection could be opened",
            Self::ConnectionLost => "connections broke",
            Self::Shutdown => "the server was shutting down or starting up",
            Self::Overload => "the server was short of resources",
            Self::System => "the server's system failed",
            Self::Timeout => "calls timed out",
            Self::WrongNode => "the node takes no writes",
            Self::Slow => "calls were too slow",
            Self::Forced => "it was opened by hand",
        })
    }
}

/// The call was refused without being sent: its endpoint has just failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerOpen {
    /// The state in which the breaker was: open, half-open with no call to spare, forced open, or closed again and
    /// letting calls in step by step.
    pub state: BreakerState,
    /// Why it opened.
    pub cause: BreakerCause,
    /// How long another try is useless; `None` when nobody knows (forced open).
    pub retry_after: Option<Duration>,
}

impl BreakerOpen {
    /// A refusal.
    pub fn new(state: BreakerState, cause: BreakerCause, retry_after: Option<Duration>) -> Self {
        Self {
            state,
            cause,
            retry_after,
        }
    }
}

impl fmt::Display for BreakerOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            BreakerState::Closed => write!(f, "not sent: the database is back and takes calls step by step")?,
            state => write!(
                f,
                "not sent: the circuit breaker is {}: {}",
                state.name().replace('_', " "),
                self.cause
            )?,
        }
        match self.retry_after {
            Some(after) => write!(f, "; try again after {after:.0?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BreakerOpen {}
