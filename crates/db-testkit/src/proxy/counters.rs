//! What a proxy has seen.

/// A snapshot. All but [`open`](Self::open) only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections accepted, those left hanging included, those refused not.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Connections reset right after they were accepted.
    pub refused: u64,
    /// Connections that the proxy has cut.
    pub cuts: u64,
    /// Bytes that got through to the server.
    pub bytes_to_server: u64,
    /// Bytes that got through to the client.
    pub bytes_to_client: u64,
}

impl Counters {
    /// What happened since an earlier snapshot; [`open`](Self::open) stays as it is.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            accepted: self.accepted.saturating_sub(earlier.accepted),
            open: self.open,
            refused: self.refused.saturating_sub(earlier.refused),
            cuts: self.cuts.saturating_sub(earlier.cuts),
            bytes_to_server: self.bytes_to_server.saturating_sub(earlier.bytes_to_server),
            bytes_to_client: self.bytes_to_client.saturating_sub(earlier.bytes_to_client),
        }
    }
}
