//! One node, as it was when it was last looked at.

use crate::{load::Load, member::Member, probe::Found, standing::Standing};
use db_core::{CausalToken, Lsn, NodeId};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// What is known about a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) found: Option<Found>,
    /// When the question was sent to which `found` is the answer.
    pub(crate) at: Option<Instant>,
    pub(crate) standing: Standing,
    pub(crate) lag: Option<Duration>,
    pub(crate) lag_bytes: Option<u64>,
    /// Looks without an answer since the last one with.
    pub(crate) silent: u32,
    /// It is known to be down: the connection was refused or broke.
    pub(crate) gone: bool,
    /// Looks with and without an answer.
    pub(crate) looks: u64,
    /// When the last look began, with or without an answer.
    pub(crate) looked: Option<Instant>,
    pub(crate) error: Option<Arc<str>>,
}

impl View {
    /// Whether it answers and takes writes.
    pub(crate) fn writable(&self) -> Option<Found> {
        self.found
            .filter(|found| self.silent == 0 && !found.standby && !found.fenced)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) hedges: AtomicU64,
    /// Reads that it ran as the primary, in place of replicas.
    pub(crate) in_place: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    /// Asks for a look now.
    pub(crate) nudge: Notify,
    /// A call failed on it: no reads until the next look.
    pub(crate) suspect: AtomicBool,
    serving: AtomicBool,
    pub(crate) view: Mutex<View>,
    pub(crate) load: Load,
    pub(crate) counts: Counts,
}

impl Node {
    pub(crate) fn new(member: Member) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            member,
            nudge: Notify::new(),
            suspect: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            view: Mutex::default(),
            load: Load::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn name(&self) -> Arc<str> {
        self.member.name().clone()
    }

    /// Whether it gets reads.
    pub(crate) fn serves(&self) -> bool {
        self.serving.load(Ordering::Relaxed) && !self.suspect.load(Ordering::Relaxed)
    }

    /// Swaps the view's standing and says what it was.
    pub(crate) fn set_standing(&self, view: &mut View, standing: Standing) -> Standing {
        self.serving.store(standing.serves(), Ordering::Relaxed);
        std::mem::replace(&mut view.standing, standing)
    }

    /// A call failed on it for reasons of its own.
    pub(crate) fn blame(&self) {
        self.counts.faults.fetch_add(1, Ordering::Relaxed);
        self.suspect.store(true, Ordering::Relaxed);
        self.nudge.notify_one();
    }

    /// Whether it has replayed this position. A node of an older timeline has not, wherever it stands.
    pub(crate) fn has_replayed(&self, floor: CausalToken) -> bool {
        self.view
            .lock()
            .found
            .is_some_and(|found| found.timeline >= floor.timeline && found.lsn >= floor.lsn)
    }

    /// What it has replayed, by an answer to a question sent at `since` or later.
    pub(crate) fn replayed_since(&self, since: Instant) -> Option<CausalToken> {
        let view = self.view.lock();
        let found = view.found.filter(|_| view.at >= Some(since))?;
        Some(CausalToken {
            system: found.system,
            timeline: found.timeline,
            lsn: found.lsn,
        })
    }

    /// How far behind it was.
    pub(crate) fn lag(&self) -> Option<Duration> {
        self.view.lock().lag
    }

    /// The answer to a glance.
    pub(crate) fn moved_to(&self, at: Instant, lsn: Lsn) {
        let mut view = self.view.lock();
        view.at = Some(at);
        if let Some(found) = &mut view.found {
            found.lsn = found.lsn.max(lsn);
        }
    }
}
