//! What is shown of leases: those that are out, what the others were used for, and what was found.

use crate::{
    record::Sight,
    usage::{SiteUsage, Usage, UseTimes},
};
use db_core::{Fingerprint, LeaseCause, LeaseId, Priority, QueryClass, TransactionState};
use std::{
    fmt,
    panic::Location,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// The bounds of the histogram of ages.
const AGES: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];

/// Everything about the leases of one database, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leases {
    /// Those that are out, longest first.
    pub open: Vec<OpenLease>,
    /// What those that came back were used for: by call site, the one with the most time first.
    pub sites: Vec<SiteUsage>,
    /// How long those that came back were out.
    pub use_times: UseTimes,
    /// What was found.
    pub counts: LeakCounts,
}

/// A lease that is out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenLease {
    /// Its number, where the source numbers its leases.
    pub lease: Option<LeaseId>,
    /// Where it was asked for.
    pub site: Option<&'static Location<'static>>,
    /// The statement that it was asked for, if the stack runs it.
    pub statement: Option<Fingerprint>,
    /// The latest statement that its holder told of.
    pub last_statement: Option<Fingerprint>,
    /// The class of the call.
    pub class: QueryClass,
    /// The priority of the call.
    pub priority: Priority,
    /// How long it has been out.
    pub held: Duration,
    /// What its holder has told about a transaction.
    pub transaction: TransactionState,
    /// Why it is out, once it is suspect.
    pub suspected: Option<LeaseCause>,
    /// Whether it has been taken back.
    pub revoked: bool,
}

impl OpenLease {
    pub(crate) fn of(sight: &Sight, now: Instant) -> Self {
        Self {
            lease: sight.id,
            site: sight.by.site,
            statement: sight.by.statement,
            last_statement: sight.last_statement,
            class: sight.class,
            priority: sight.priority,
            held: now.saturating_duration_since(sight.since),
            transaction: sight.transaction,
            suspected: sight.suspect.as_ref().map(|suspect| suspect.cause),
            revoked: sight.revoked,
        }
    }
}

impl fmt::Display for OpenLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.site, self.statement) {
            (Some(site), _) => write!(f, "{}:{}", site.file(), site.line())?,
            (None, Some(statement)) => write!(f, "statement {statement}")?,
            (None, None) => f.write_str("an unnamed caller")?,
        }
        write!(
            f,
            " for {:.1?} ({}, transaction {}",
            self.held,
            self.class.name(),
            self.transaction
        )?;
        if let Some(cause) = self.suspected {
            write!(f, ", suspect: {cause}")?;
        }
        f.write_str(if self.revoked { ", revoked)" } else { ")" })
    }
}

/// What was found since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakCounts {
    /// Suspects by cause, in the order of [`LeaseCause::ALL`].
    pub suspects: [u64; LeaseCause::ALL.len()],
    /// Suspects that came back.
    pub returned: u64,
    /// Leases that were taken back.
    pub revoked: u64,
    /// Leases that would have been taken back if the mode were `enforce`.
    pub would_revoke: u64,
    /// Nested acquires of an exhausted pool.
    pub nested: u64,
    /// Those of them that were refused.
    pub nested_refused: u64,
}

impl LeakCounts {
    /// All suspects.
    pub fn suspected(&self) -> u64 {
        self.suspects.iter().sum()
    }
}

impl Leases {
    pub(crate) fn new(open: Vec<OpenLease>, usage: Usage, counters: &Counters) -> Self {
        let (sites, use_times) = usage.into_parts();
        Self {
            open,
            sites,
            use_times,
            counts: counters.read(),
        }
    }

    /// How many of those that are out are how old: each bound, and how many are below it and not below the one before.
    /// The last bound is `Duration::MAX`.
    pub fn ages(&self) -> Vec<(Duration, usize)> {
        let bounds = AGES.into_iter().chain([Duration::MAX]);
        let mut from = Duration::ZERO;
        bounds
            .map(|bound| {
                let count = self.open.iter().filter(|lease| (from..bound).contains(&lease.held));
                let count = count.count();
                from = bound;
                (bound, count)
            })
            .collect()
    }
}

/// The counts as they grow.
#[derive(Default)]
pub(crate) struct Counters {
    suspects: [AtomicU64; LeaseCause::ALL.len()],
    returned: AtomicU64,
    revoked: AtomicU64,
    would_revoke: AtomicU64,
    nested: AtomicU64,
    nested_refused: AtomicU64,
}

impl Counters {
    pub(crate) fn suspect(&self, cause: LeaseCause) {
        self.suspects[cause.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn returned(&self) {
        self.returned.fetch_add(1, Relaxed);
    }

    pub(crate) fn revoked(&self) {
        self.revoked.fetch_add(1, Relaxed);
    }

    pub(crate) fn would_revoke(&self) {
        self.would_revoke.fetch_add(1, Relaxed);
    }

    pub(crate) fn nested(&self, refused: bool) {
        self.nested.fetch_add(1, Relaxed);
        self.nested_refused.fetch_add(u64::from(refused), Relaxed);
    }

    fn read(&self) -> LeakCounts {
        LeakCounts {
            suspects: std::array::from_fn(|at| self.suspects[at].load(Relaxed)),
            returned: self.returned.load(Relaxed),
            revoked: self.revoked.load(Relaxed),
            would_revoke: self.would_revoke.load(Relaxed),
            nested: self.nested.load(Relaxed),
            nested_refused: self.nested_refused.load(Relaxed),
        }
    }
}
