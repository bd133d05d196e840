//! Why a position can't be waited for.

use crate::{CausalToken, Lsn};

/// Why a causal token, or the memory of a session, can't be honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CausalError {
    /// The text is no token.
    #[error("not a causal token: expected SYSTEM.TIMELINE.LSN in hexadecimal")]
    Malformed,
    /// The token is of another cluster.
    #[error("the causal token {token} is of another cluster: this one is {system:x}")]
    OtherCluster {
        /// The token.
        token: CausalToken,
        /// The system identifier of this cluster.
        system: u64,
    },
    /// What the token has seen was not taken over by a promotion: those writes are gone.
    #[error(
        "the causal token {token} is of a lost timeline: timeline {timeline} took over at {fork}, before its position"
    )]
    Lost {
        /// The token.
        token: CausalToken,
        /// The timeline that took over.
        timeline: u32,
        /// Where it did.
        fork: Lsn,
    },
    /// Nobody knows where the token's timeline was left, so that what it has seen may be gone.
    #[error("the causal token {token} is of timeline {}, and the cluster is on timeline {timeline}: whether its writes were taken over is unknown", token.timeline)]
    UnknownTimeline {
        /// The token.
        token: CausalToken,
        /// The cluster's timeline.
        timeline: u32,
    },
    /// No primary is known, so that there is no position.
    #[error("no primary answers, so the position of this session's writes is unknown")]
    NoPosition,
}
