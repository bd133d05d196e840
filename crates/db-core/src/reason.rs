//! Why connections are closed, and answers dropped from the cache.

/// Why the pool closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// It reached its (jittered) lifetime.
    Lifetime,
    /// It was idle for longer than the pool keeps connections.
    Idle,
    /// It did not answer when it was tested after an idle time.
    Invalid,
    /// Its wire broke, or the server ended the session.
    Broken,
    /// It could not be made clean in time after a caller abandoned it.
    Quarantine,
    /// The pool was made smaller.
    Shrunk,
    /// The pool closed.
    Closed,
    /// It belongs to an older epoch of its endpoint.
    Epoch,
    /// The caller took it out of the pool for good.
    Detached,
    /// Its lease was taken back from a holder who had it for too long.
    Revoked,
}

impl CloseReason {
    /// Every reason, in the order of [`CloseReason::index`].
    pub const ALL: [Self; 10] = [
        Self::Lifetime,
        Self::Idle,
        Self::Invalid,
        Self::Broken,
        Self::Quarantine,
        Self::Shrunk,
        Self::Closed,
        Self::Epoch,
        Self::Detached,
        Self::Revoked,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Idle => "idle",
            Self::Invalid => "invalid",
            Self::Broken => "broken",
            Self::Quarantine => "quarantine",
            Self::Shrunk => "shrunk",
            Self::Closed => "closed",
            Self::Epoch => "epoch",
            Self::Detached => "detached",
            Self::Revoked => "revoked",
        }
    }
}

/// Why answers were dropped from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheDrop {
    /// A write through this stack.
    Write,
    /// A write through this stack whose outcome is unknown.
    InDoubt,
    /// Somebody here may have written anything: a raw connection or transaction, a trigger, a statement that is not
    /// understood.
    Anything,
    /// Another process's write that the server told of.
    Notified,
    /// What was missed while nobody listened.
    Gap,
    /// The schema changed.
    Schema,
    /// The application asked for it.
    Asked,
}

impl CacheDrop {
    /// Every reason, in the order of [`CacheDrop::index`].
    pub const ALL: [Self; 7] = [
        Self::Write,
        Self::InDoubt,
        Self::Anything,
        Self::Notified,
        Self::Gap,
        Self::Schema,
        Self::Asked,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::InDoubt => "in_doubt",
            Self::Anything => "anything",
            Self::Notified => "notified",
            Self::Gap => "gap",
            Self::Schema => "schema",
            Self::Asked => "asked",
        }
    }
}
