//! A call that took longer than it may.

use super::Sent;
use crate::{Fingerprint, QueryClass};
use std::{fmt, time::Duration};

/// Which of a call's limits was the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitOrigin {
    /// The timeout of its class.
    Class,
    /// What was learned about its statement.
    Adaptive,
    /// The caller's own timeout.
    Call,
    /// The caller's deadline.
    Deadline,
    /// The limit of the transaction that it is part of.
    Transaction,
}

impl LimitOrigin {
    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Adaptive => "adaptive",
            Self::Call => "call",
            Self::Deadline => "deadline",
            Self::Transaction => "transaction",
        }
    }
}

/// A call passed its limit and was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeoutError {
    /// The class of the call.
    pub class: QueryClass,
    /// The limit, from the start of the call; zero when it had passed before the call began.
    pub limit: Duration,
    /// How long the call had lasted.
    pub elapsed: Duration,
    /// The statement, if the call was one.
    pub statement: Option<Fingerprint>,
    /// Which limit it was.
    pub origin: LimitOrigin,
    /// What the server may have seen. [`Sent::No`] only when the call never began.
    pub sent: Sent,
}

impl TimeoutError {
    /// A call that was given up while it ran.
    pub fn new(class: QueryClass, origin: LimitOrigin, limit: Duration, elapsed: Duration) -> Self {
        Self {
            class,
            limit,
            elapsed,
            statement: None,
            origin,
            sent: Sent::Maybe,
        }
    }

    /// A call whose limit had passed before it began: nothing was run.
    pub fn before_start(class: QueryClass, origin: LimitOrigin) -> Self {
        Self {
            sent: Sent::No,
            ..Self::new(class, origin, Duration::ZERO, Duration::ZERO)
        }
    }

    /// The same error about a known statement.
    #[must_use]
    pub fn with_statement(mut self, statement: Option<Fingerprint>) -> Self {
        self.statement = statement;
        self
    }
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.sent, self.statement) {
            (Sent::No, _) => return write!(f, "the {} had passed before the call began", self.limit_name()),
            (Sent::Maybe, Some(statement)) => write!(f, "statement {statement} timed out")?,
            (Sent::Maybe, None) => f.write_str("the call timed out")?,
        }
        write!(
            f,
            " after {:.1?}: the {} is {:?}",
            self.elapsed,
            self.limit_name(),
            self.limit
        )
    }
}

impl TimeoutError {
    fn limit_name(&self) -> LimitName {
        LimitName(self.origin, self.class)
    }
}

struct LimitName(LimitOrigin, QueryClass);

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LimitOrigin::Class => write!(f, "limit of class {}", self.1.name()),
            LimitOrigin::Adaptive => f.write_str("limit learned for it"),
            LimitOrigin::Call => f.write_str("caller's timeout"),
            LimitOrigin::Deadline => f.write_str("caller's deadline"),
            LimitOrigin::Transaction => f.write_str("transaction's limit"),
        }
    }
}

impl std::error::Error for TimeoutError {}
