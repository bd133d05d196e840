//! What is known about one connection and its latest lease. Lives with the connection, so that a checkout allocates
//! nothing and shares nothing with other threads.

use crate::{
    holding::Holding,
    ledger::Ledger,
    task,
    usage::{By, Usage},
};
use db_core::{Call, Fingerprint, LeaseId, LeaseNote, LeaseRevoked, Priority, QueryClass, Suspect, TransactionState};
use parking_lot::Mutex;
use std::{
    backtrace::Backtrace,
    panic::Location,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The record of one connection. Only the holder of the lease writes, except for what the watch marks.
pub(crate) struct Record {
    ledger: Weak<Ledger>,
    holding: Arc<Holding>,
    /// The source's number among those that the ledger keeps account of.
    pub(crate) source: u32,
    page: Mutex<Page>,
    /// Once the lease has come back, for how many nanoseconds it was out, and one; 0 while it is out.
    returned: AtomicU64,
    /// How often its holder has used it.
    uses: AtomicU32,
    /// The task that used it last. It counts as one that may hold a lease until the connection goes to another one: who
    /// waits, finds all connections with their holders.
    task: AtomicU64,
    /// Whether it counts already.
    held: AtomicBool,
    /// Handed out as a `PgConnection`: what happens on it is not seen.
    raw: AtomicBool,
    /// The lease is suspect or revoked: whoever returns or uses it has to look.
    marked: AtomicBool,
}

#[derive(Default)]
struct Page {
    lease: Option<Out>,
    /// The lease has come back and was counted.
    counted: bool,
    usage: Usage,
    /// `uses` when the watch looked last.
    uses_seen: u32,
}

/// A lease that is out, or was out last.
struct Out {
    id: Option<LeaseId>,
    site: Option<&'static Location<'static>>,
    statement: Option<Fingerprint>,
    class: QueryClass,
    priority: Priority,
    since: Instant,
    last_statement: Option<Fingerprint>,
    transaction: TransactionState,
    rare: Option<Box<Rare>>,
}

/// What few leases have.
#[derive(Default)]
struct Rare {
    backtrace: Option<Arc<Backtrace>>,
    suspect: Option<Arc<Suspect>>,
    would_revoke: bool,
    revoked: Option<LeaseRevoked>,
}

/// A lease that is out, as the watch sees it.
#[derive(Clone)]
pub(crate) struct Sight {
    pub(crate) id: Option<LeaseId>,
    pub(crate) by: By,
    pub(crate) class: QueryClass,
    pub(crate) priority: Priority,
    pub(crate) since: Instant,
    pub(crate) last_statement: Option<Fingerprint>,
    pub(crate) transaction: TransactionState,
    pub(crate) backtrace: Option<Arc<Backtrace>>,
    pub(crate) suspect: Option<Arc<Suspect>>,
    pub(crate) would_revoke: bool,
    pub(crate) revoked: bool,
    pub(crate) task: u64,
    pub(crate) uses: u32,
    /// Used since the watch looked last.
    pub(crate) used: bool,
}

impl Record {
    pub(crate) fn new(ledger: &Arc<Ledger>, source: u32) -> Self {
        Self {
            ledger: Arc::downgrade(ledger),
            holding: Arc::clone(&ledger.holding),
            source,
            page: Mutex::default(),
            returned: AtomicU64::new(1),
            uses: AtomicU32::new(0),
            task: AtomicU64::new(0),
            held: AtomicBool::new(false),
            raw: AtomicBool::new(false),
            marked: AtomicBool::new(false),
        }
    }

    /// Whether it belongs to this ledger and source: another layer may have left its own record on the connection.
    pub(crate) fn is_of(&self, ledger: &Arc<Ledger>, source: u32) -> bool {
        self.source == source && std::ptr::eq(self.ledger.as_ptr(), Arc::as_ptr(ledger))
    }

    /// A lease is handed out. The one before is counted now, so that its return costs one store.
    pub(crate) fn hand_out(&self, call: &Call, id: Option<LeaseId>, since: Instant, backtrace: Option<Arc<Backtrace>>) {
        let mut page = self.page.lock();
        self.settle(&mut page);
        // Field by field, into its place.
        let out = page.lease.get_or_insert_with(|| Out::at(since));
        (out.id, out.since) = (id, since);
        (out.site, out.statement) = (call.site, call.statement);
        (out.class, out.priority) = (call.class, call.priority);
        (out.last_statement, out.transaction) = (None, TransactionState::None);
        if out.rare.is_some() || backtrace.is_some() {
            out.rare = Rare::with(backtrace);
        }
        page.counted = false;
        page.uses_seen = 0;
        self.uses.store(0, Ordering::Relaxed);
        self.used_here();
        self.raw.store(false, Ordering::Relaxed);
        self.marked.store(false, Ordering::Relaxed);
        self.returned.store(0, Ordering::Relaxed);
    }

    /// The lease comes back, after so long.
    pub(crate) fn hand_back(&self, held: Duration) {
        if self.marked.load(Ordering::Acquire) {
            self.tell_returned(held);
        }
        let nanos = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        self.returned.store(nanos.saturating_add(1), Ordering::Release);
    }

    #[cold]
    fn tell_returned(&self, held: Duration) {
        let suspect = {
            let page = self.page.lock();
            let out = page.lease.as_ref().filter(|out| out.suspect().is_some());
            out.map(|out| (out.by(), out.class))
        };
        if let (Some((by, class)), Some(ledger)) = (suspect, self.ledger.upgrade()) {
            ledger.suspect_returned(by, class, held);
        }
    }

    /// Counts a lease that has come back.
    fn settle(&self, page: &mut Page) {
        let returned = self.returned.load(Ordering::Acquire);
        if returned != 0
            && !page.counted
            && let Some(out) = &page.lease
        {
            page.usage.note(out.by(), returned - 1);
            page.counted = true;
        }
    }

    /// Its holder has `&mut PgConnection`.
    pub(crate) fn touch(&self) {
        self.raw.store(true, Ordering::Relaxed);
        self.used_here();
        self.used();
    }

    /// The task that uses it holds it, whoever it was handed to.
    fn used_here(&self) {
        let task = task::current();
        let before = self.task.load(Ordering::Relaxed);
        let held = self.held.load(Ordering::Relaxed);
        if task != before || !held {
            self.task.store(task, Ordering::Relaxed);
            self.held.store(true, Ordering::Relaxed);
            self.holding.add(task);
            if held {
                self.holding.remove(before);
            }
        }
    }

    /// Its holder uses it. Nobody else writes, so a load and a store will do.
    pub(crate) fn used(&self) {
        self.uses
            .store(self.uses.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn note(&self, note: LeaseNote) {
        self.used_here();
        let mut page = self.page.lock();
        let Some(out) = page.lease.as_mut() else { return };
        match note {
            LeaseNote::Statement(statement) => out.last_statement = Some(statement),
            LeaseNote::Begun => out.transaction = TransactionState::Open,
            LeaseNote::Ended => out.transaction = TransactionState::None,
            _ => {}
        }
    }

    /// Whether the lease was taken back.
    pub(crate) fn revoked(&self) -> Option<LeaseRevoked> {
        if !self.marked.load(Ordering::Acquire) {
            return None;
        }
        self.page.lock().lease.as_ref()?.rare.as_ref()?.revoked
    }

    /// The lease, if it is out. `watch` is true for the one who compares uses from look to look.
    pub(crate) fn sight(&self, watch: bool) -> Option<Sight> {
        let mut page = self.page.lock();
        self.settle(&mut page);
        let uses = self.uses.load(Ordering::Relaxed);
        let used = uses != page.uses_seen;
        if watch {
            page.uses_seen = uses;
        }
        let out = page.lease.as_ref().filter(|_| !page.counted)?;
        let raw = self.raw.load(Ordering::Relaxed);
        let rare = out.rare.as_deref();
        Some(Sight {
            id: out.id,
            by: out.by(),
            class: out.class,
            priority: out.priority,
            since: out.since,
            last_statement: out.last_statement.or(out.statement),
            transaction: match out.transaction {
                TransactionState::None if raw => TransactionState::Unknown,
                told => told,
            },
            backtrace: rare.and_then(|rare| rare.backtrace.clone()),
            suspect: rare.and_then(|rare| rare.suspect.clone()),
            would_revoke: rare.is_some_and(|rare| rare.would_revoke),
            revoked: rare.is_some_and(|rare| rare.revoked.is_some()),
            task: self.task.load(Ordering::Relaxed),
            uses,
            used,
        })
    }

    /// Marks the lease that was seen; false when it has come back since.
    fn mark(&self, seen: &Sight, mark: impl FnOnce(&mut Rare)) -> bool {
        let mut page = self.page.lock();
        self.settle(&mut page);
        let Page { lease, counted, .. } = &mut *page;
        let Some(out) = lease
            .as_mut()
            .filter(|out| !*counted && out.since == seen.since && out.id == seen.id)
        else {
            return false;
        };
        mark(out.rare.get_or_insert_default());
        self.marked.store(true, Ordering::Release);
        true
    }

    pub(crate) fn mark_suspect(&self, seen: &Sight, suspect: &Arc<Suspect>) -> bool {
        self.mark(seen, |rare| rare.suspect = Some(Arc::clone(suspect)))
    }

    pub(crate) fn mark_would_revoke(&self, seen: &Sight) -> bool {
        self.mark(seen, |rare| rare.would_revoke = true)
    }

    pub(crate) fn mark_revoked(&self, seen: &Sight, revoked: Option<LeaseRevoked>) -> bool {
        self.mark(seen, |rare| rare.revoked = revoked)
    }

    /// Adds what its connection was used for.
    pub(crate) fn add_usage(&self, sum: &mut Usage) {
        let mut page = self.page.lock();
        self.settle(&mut page);
        sum.add(&page.usage);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if *self.held.get_mut() {
            self.holding.remove(*self.task.get_mut());
        }
    }
}

impl Rare {
    #[cold]
    fn with(backtrace: Option<Arc<Backtrace>>) -> Option<Box<Self>> {
        backtrace.map(|backtrace| {
            Box::new(Self {
                backtrace: Some(backtrace),
                ..Self::default()
            })
        })
    }
}

impl Out {
    fn at(since: Instant) -> Self {
        Self {
            id: None,
            site: None,
            statement: None,
            class: QueryClass::default(),
            priority: Priority::default(),
            since,
            last_statement: None,
            transaction: TransactionState::None,
            rare: None,
        }
    }

    fn by(&self) -> By {
        By {
            site: self.site,
            statement: self.statement,
        }
    }

    fn suspect(&self) -> Option<&Arc<Suspect>> {
        self.rare.as_ref()?.suspect.as_ref()
    }
}
