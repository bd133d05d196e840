//! Why a call was sent away before it got a connection.

/// Why a caller was shed: sent away at once, or taken out of the queue, while connections were busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShedReason {
    /// By the measured service time it could not have been served before its deadline.
    Deadline,
    /// The queue had been standing for too long, and it had waited longer than its priority may then.
    Standing,
    /// The queue was full and it had to make room for a caller of higher priority.
    Displaced,
}

impl ShedReason {
    /// Every reason, in the order of [`ShedReason::index`].
    pub const ALL: [Self; 3] = [Self::Deadline, Self::Standing, Self::Displaced];

    /// A small number for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Standing => "standing",
            Self::Displaced => "displaced",
        }
    }
}
