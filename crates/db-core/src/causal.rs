//! What a caller has seen of a database that has replicas: a position as a value, and the memory of one session.

use crate::{CausalError, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text as PostgreSQL writes it, `16/B374D848`.
impl FromStr for Lsn {
    type Err = CausalError;

    fn from_str(text: &str) -> Result<Self, CausalError> {
        // `from_str_radix` takes a sign.
        let plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let part = |part: &str| u32::from_str_radix(Some(part).filter(plain)?, 16).ok().map(u64::from);
        let parts = text
            .split_once('/')
            .and_then(|(high, low)| Some((part(high)?, part(low)?)));
        let (high, low) = parts.ok_or(CausalError::Malformed)?;
        Ok(Self(high << 32 | low))
    }
}

/// A write position that a read must have seen: a value to pass on in a header, a cookie or a message.
///
/// Its text is `SYSTEM.TIMELINE.LSN` in hexadecimal, without a character that a header or cookie would have to escape.
/// It says nothing about the data. Of two tokens of one cluster the greater one has seen more.
///
/// ```
/// use db_core::CausalToken;
///
/// let token: CausalToken = "6a1b2c3d4e5f6071.2.16b374d848".parse()?;
/// assert_eq!((token.timeline, token.lsn.to_string().as_str()), (2, "16/B374D848"));
/// assert_eq!(token.to_string(), "6a1b2c3d4e5f6071.2.16b374d848");
/// # Ok::<(), db_core::CausalError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CausalToken {
    /// The cluster's system identifier, the same on a primary and its replicas.
    pub system: u64,
    /// The timeline on which it was written; each promotion begins a new one.
    pub timeline: u32,
    /// The position.
    pub lsn: Lsn,
}

impl fmt::Display for CausalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.system, self.timeline, self.lsn.0)
    }
}

impl FromStr for CausalToken {
    type Err = CausalError;

    fn from_str(text: &str) -> Result<Self, CausalError> {
        // `from_str_radix` takes a sign.
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.');
        let mut parts = text.split('.');
        let mut next = |bits: u32| {
            let number = u64::from_str_radix(parts.next()?, 16).ok()?;
            (bits == 64 || number >> bits == 0).then_some(number)
        };
        let token = (|| {
            Some(Self {
                system: next(64)?,
                timeline: u32::try_from(next(32)?).ok()?,
                lsn: Lsn(next(64)?),
            })
        })();
        token
            .filter(|_| plain && parts.next().is_none())
            .ok_or(CausalError::Malformed)
    }
}

impl Serialize for CausalToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CausalToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Which nodes may run a call, by the caller's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Pure reads on a replica, everything else on the primary.
    #[default]
    Any,
    /// The primary.
    Primary,
    /// As `Any`, but reads show everything that was committed up to so long ago.
    Fresh(Duration),
    /// As `Any`, but reads show everything that was committed before this moment.
    Since(Instant),
}

/// A number for a node of the cluster, never used twice in one process.
pub type NodeId = u64;

/// Why a replica gets no reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BanReason {
    /// It does not answer.
    Unreachable,
    /// It is too far behind the primary.
    Lag,
    /// It belongs to another cluster.
    OtherCluster,
}

impl BanReason {
    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Lag => "lag",
            Self::OtherCluster => "other_cluster",
        }
    }
}

/// What one session has seen so far, by what is known without asking anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// The position that was resolved or brought along.
    pub token: Option<CausalToken>,
    /// When a call last ended on the primary: the session has seen everything that was committed before.
    pub primary: Option<Instant>,
    /// The replica on which a read last ended, and when.
    pub replica: Option<(NodeId, Instant)>,
    /// Whether it wrote.
    pub wrote: bool,
    /// When a call of its own last ended, on whichever node: what it has seen there was committed before. Unlike the other
    /// moments it is never resolved into a position, and answers from a cache don't count.
    pub ran: Option<Instant>,
    /// The token that was brought along last, and when: what it has seen was committed before.
    pub brought: Option<(CausalToken, Instant)>,
}

impl Seen {
    /// Whether any node will do.
    pub fn is_nothing(&self) -> bool {
        self.token.is_none() && self.primary.is_none() && self.replica.is_none()
    }
}

/// The memory of one session: what its writes and reads have seen. Shared by all handles of the session; calls that run
/// side by side are each ordered after what had ended before they began.
#[derive(Debug, Default)]
pub struct CausalSession {
    seen: Mutex<Seen>,
}

impl CausalSession {
    /// A session that has seen what `token` has.
    pub fn from_token(token: CausalToken) -> Self {
        let session = Self::default();
        session.join(token);
        session
    }

    /// A session of its own that has seen this much: for calls made on behalf of another session that are not its own.
    pub fn from_seen(seen: Seen) -> Self {
        Self { seen: Mutex::new(seen) }
    }

    /// What it has seen.
    pub fn seen(&self) -> Seen {
        self.with(|seen| *seen)
    }

    /// A call has ended on the primary.
    pub fn saw_primary(&self, at: Instant, wrote: bool) {
        self.with(|seen| {
            seen.primary = seen.primary.max(Some(at));
            seen.ran = seen.ran.max(Some(at));
            seen.wrote |= wrote;
        });
    }

    /// It was given an answer that somebody had read by `at`: reads of its own must not show less from now on.
    pub fn saw_answer(&self, at: Instant) {
        self.with(|seen| seen.primary = seen.primary.max(Some(at)));
    }

    /// A read has ended on a replica.
    pub fn saw_replica(&self, node: NodeId, at: Instant) {
        self.with(|seen| {
            seen.ran = seen.ran.max(Some(at));
            if seen.replica.is_none_or(|(_, before)| before <= at) {
                seen.replica = Some((node, at));
            }
        });
    }

    /// What happened up to `primary` on the primary, or up to `replica` on that replica, is covered by `token`.
    pub fn resolved(&self, token: CausalToken, primary: Option<Instant>, replica: Option<(NodeId, Instant)>) {
        self.with(|seen| {
            seen.token = seen.token.max(Some(token));
            seen.primary = seen.primary.filter(|at| Some(*at) > primary);
            if replica.is_some() && seen.replica == replica {
                seen.replica = None;
            }
        });
    }

    /// Adds what another session has seen.
    pub fn join(&self, token: CausalToken) {
        let now = Instant::now();
        self.with(|seen| {
            seen.token = seen.token.max(Some(token));
            // The moment of the later one covers the earlier one as well, the higher position is the one to be asked about.
            let highest = seen.brought.map_or(token, |(before, _)| before.max(token));
            seen.brought = Some((highest, now));
        });
    }

    /// Forgets everything: the way out when what it had seen is lost.
    pub fn forget(&self) {
        self.with(|seen| *seen = Seen::default());
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
