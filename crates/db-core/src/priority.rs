//! Who goes first when there are more callers than connections.

use std::fmt;

/// How urgent a call is. It decides who gets the next lease and who is shed first; it never changes what runs.
///
/// Ordered: `Critical` is the least, as it comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// What the service exists for: placing an order.
    Critical,
    /// What a user waits for and notices.
    High,
    /// Most calls.
    #[default]
    Normal,
    /// What nobody waits for: reports, clean-up.
    Background,
}

impl Priority {
    /// Every priority, the most urgent first, in the order of [`Priority::index`].
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Background];

    /// A small number for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is configured and reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Background => "background",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
