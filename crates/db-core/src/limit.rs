//! Why the number of leases that may be in use was changed.

/// Why the pool's limit moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitReason {
    /// More leases brought more throughput, or it was time to find out.
    Gain,
    /// More leases brought no more throughput.
    NoGain,
    /// Most of our sessions waited for locks.
    Contention,
    /// The server had no room for another connection.
    Refused,
    /// What the server has free, shared with the other instances of this application, changed.
    Share,
    /// By the rule of utilization.
    Utilization,
    /// Other settings.
    Reloaded,
}

impl LimitReason {
    /// The name under which it is reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::NoGain => "no_gain",
            Self::Contention => "contention",
            Self::Refused => "refused",
            Self::Share => "share",
            Self::Utilization => "utilization",
            Self::Reloaded => "reloaded",
        }
    }
}
