//! What travels beside an operation: the caller's wishes for one call.

use crate::{CausalSession, Fingerprint, Priority, Target, Tenant};
use std::{panic::Location, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a call is expected to take. The class chooses a call's limits; it never changes what runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueryClass {
    /// Single-row look-ups.
    Instant,
    /// Indexed queries.
    Fast,
    /// Most queries.
    #[default]
    Normal,
    /// Reports and aggregations.
    Slow,
    /// Bulk work.
    Batch,
    /// A class that the application defined in its configuration, by name.
    Custom(&'static str),
}

impl QueryClass {
    /// The name under which the class is configured and reported.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Fast => "fast",
            Self::Normal => "normal",
            Self::Slow => "slow",
            Self::Batch => "batch",
            Self::Custom(name) => name,
        }
    }
}

/// The caller's wishes for one call, passed by reference through every layer.
///
/// A layer that needs other values for one attempt copies the call; it never writes to the caller's.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Call {
    /// Expected duration; default [`QueryClass::Normal`].
    pub class: QueryClass,
    /// The instant at which the caller stops caring, over waiting for a lease, retries and execution together.
    pub deadline: Option<Instant>,
    /// The longest that this call may take, counted from where the timeout layer sees it. The nearest of this, the
    /// deadline and the limit of the class wins.
    pub timeout: Option<Duration>,
    /// Where the caller made the call, for reports about who holds a lease.
    pub site: Option<&'static Location<'static>>,
    /// The statement that the call runs, when it is one.
    pub statement: Option<Fingerprint>,
    /// The caller's word that running it twice does no more than running it once, so that it may be repeated when
    /// nobody knows whether it ran. Default false: only true reads are.
    pub idempotent: bool,
    /// Who goes first when there are more callers than connections; default [`Priority::Normal`].
    pub priority: Priority,
    /// On whose behalf the call is made. Answers of one tenant are never another's.
    pub tenant: Option<Tenant>,
    /// Which nodes may run it. Default [`Target::Any`].
    pub target: Target,
    /// The session whose writes and reads it must not fall behind.
    pub session: Option<Arc<CausalSession>>,
}

impl Call {
    /// A call that names its caller's source line.
    #[track_caller]
    pub fn here() -> Self {
        Self {
            site: Some(Location::caller()),
            ..Self::default()
        }
    }

    /// The same call with a deadline; an earlier deadline that is already set stays.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |set| set.min(deadline)));
        self
    }

    /// The same call with a timeout; a shorter one that is already set stays.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(self.timeout.map_or(timeout, |set| set.min(timeout)));
        self
    }

    /// The same call, which may run twice without harm: see [`Call::idempotent`].
    #[must_use]
    pub fn with_idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The same call with another priority.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same call in another class.
    #[must_use]
    pub fn with_class(mut self, class: QueryClass) -> Self {
        self.class = class;
        self
    }
}
