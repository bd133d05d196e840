//! A connection in use.

use crate::{
    conn::{Conn, Guest},
    holders::Standing,
    quarantine::{self, Left},
    shared::Shared,
};
use db_core::{Attachment, CloseReason, Lease, LeaseId, LeaseState, Result, SharedSession, StatementFacts};
use sqlx::{Connection, PgConnection, SqlStr};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// What is known about the connection under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Idle and unchanged: the next caller may have it as it is.
    Clean,
    /// An operation of the stack has started and not settled.
    InFlight,
    /// Somebody had `&mut PgConnection`, or an operation left session state.
    Raw,
    /// Idle, and refuses to write: perhaps a standby by now.
    WrongNode,
    /// Out of step or dead.
    Broken,
}

/// A connection in use: derefs to [`PgConnection`] and goes back to the pool when dropped.
///
/// Mutable access is raw access: sqlx hides pending work and transaction state, so a lease that was touched is
/// verified and reset on its way back, off the caller's path. A lease dropped with work in flight is cancelled on the
/// server, drained and rolled back in quarantine, or closed. Dropping it after the runtime has gone closes it.
pub struct PoolLease {
    conn: Option<Box<Conn>>,
    shared: Arc<Shared>,
    condition: Condition,
    /// The moment of its return, when its holder has looked at the clock.
    returned: Option<Instant>,
}

const TAKEN: &str = "a lease holds its connection until it is dropped or detached";

impl PoolLease {
    pub(crate) fn new(shared: &Arc<Shared>, conn: Box<Conn>) -> Self {
        Self {
            conn: Some(conn),
            shared: shared.clone(),
            condition: Condition::Clean,
            returned: None,
        }
    }

    /// The server's process id of this session; 0 through a transaction pooler, where it changes.
    pub fn backend_pid(&self) -> i32 {
        self.conn.as_ref().expect(TAKEN).backend.pid
    }

    /// How long opening the connection took, if it was opened after `since`; nothing for an older one.
    pub(crate) fn opened_since(&self, since: Instant) -> Duration {
        let conn = self.conn.as_ref().expect(TAKEN);
        if conn.born >= since {
            conn.opened_in
        } else {
            Duration::ZERO
        }
    }

    /// How long the connection has not been used.
    pub(crate) fn idle_for(&self) -> Duration {
        self.conn.as_ref().expect(TAKEN).idle_for(Instant::now())
    }

    /// Takes the connection out of the pool for good; the pool may open another one in its place.
    pub fn detach(mut self) -> PgConnection {
        let conn = self.conn.take().expect(TAKEN);
        {
            let mut state = self.shared.state.lock();
            if state.end_lease(&conn, None) != Standing::WrittenOff {
                state.forget(&conn, CloseReason::Detached);
            }
        }
        self.shared.emptied.notify_waiters();
        self.shared.demand.notify_one();
        conn.pg
    }

    /// Has `ended` called once the use of this connection is over for good: with `true` when it is clean again, with
    /// `false` when it is gone with whatever was in flight on it. That may be later than the lease is dropped. The last
    /// one given counts; the one before it is told `false`.
    pub fn on_end(&mut self, ended: impl FnOnce(bool) + Send + Sync + 'static) {
        self.conn.as_mut().expect(TAKEN).guest = Guest::new(ended);
    }

    /// Marks the connection as unusable: it is closed instead of going back.
    pub fn close_on_drop(&mut self) {
        self.condition = Condition::Broken;
    }

    /// Ends what a dropped future has left in flight: cancels it on the server when `cancel` says so, and reads past its
    /// answer. A transaction that is open stays open, and is aborted if a statement in it was cancelled.
    ///
    /// Takes some tenths of a millisecond, the pool's `quarantine_timeout` at most. Cancel-safe: it can be called again.
    ///
    /// # Errors
    /// When the server does not become quiet in time: the connection is then closed on its way back.
    pub async fn quiet(&mut self, cancel: bool) -> Result<()> {
        let conn = self.conn.as_mut().expect(TAKEN);
        match quarantine::quiet_in_place(&self.shared, conn, cancel).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.condition = Condition::Broken;
                Err(error.into())
            }
        }
    }

    /// Whether statements on it were prepared before a stale plan was found somewhere.
    pub(crate) fn is_outdated(&self) -> bool {
        self.shared.plans.outdated(self.conn.as_ref().expect(TAKEN))
    }

    pub(crate) async fn renew_plans(&mut self) -> sqlx::Result<()> {
        self.start();
        self.shared.plans.renew(self.conn.as_mut().expect(TAKEN)).await
    }

    /// Closes the connection now, for a reason that the pool knows.
    pub(crate) fn discard(mut self, reason: CloseReason) {
        if let Some(conn) = self.conn.take() {
            self.shared.discard(conn, reason);
        }
    }
}

impl Lease for PoolLease {
    fn start(&mut self) -> &mut PgConnection {
        if self.condition == Condition::Clean {
            self.condition = Condition::InFlight;
        }
        &mut self.conn.as_mut().expect(TAKEN).pg
    }

    fn shared_session(&self) -> Option<&Arc<SharedSession>> {
        self.conn.as_ref().expect(TAKEN).backend.shared.as_ref()
    }

    fn settle(&mut self, state: LeaseState) {
        if state == LeaseState::StalePlans {
            self.shared.plans.found_stale(self.conn.as_ref().expect(TAKEN));
        }
        self.condition = match (self.condition, state) {
            (Condition::Broken, _) | (_, LeaseState::Broken) => Condition::Broken,
            (_, LeaseState::WrongNode) | (Condition::WrongNode, _) => Condition::WrongNode,
            (Condition::Raw, _) | (_, LeaseState::Verify | LeaseState::StalePlans) => Condition::Raw,
            (_, LeaseState::Clean) => Condition::Clean,
        };
    }

    fn prepare_from(&self) -> u64 {
        self.conn.as_ref().expect(TAKEN).book.prepare_from()
    }

    fn ran(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr, held: usize) {
        facts.count_use();
        let conn = self.conn.as_mut().expect(TAKEN);
        let now = conn.pg.cached_statements_size();
        let fresh = conn.book.ran(facts, sql, held, now);
        // Types have other numbers in other databases.
        if let Some(fresh) = fresh.filter(|_| conn.home.is_none()) {
            fresh.pool.learn(fresh.text, &mut conn.pg);
        }
    }

    fn id(&self) -> Option<LeaseId> {
        self.conn.as_ref().map(|conn| conn.id())
    }

    fn since(&self) -> Option<Instant> {
        self.conn.as_ref().map(|conn| conn.leased)
    }

    fn returning(&mut self, now: Instant) {
        self.returned = Some(now);
    }

    fn attachment(&mut self) -> Option<&mut Attachment> {
        self.conn.as_mut().map(|conn| &mut conn.attachment)
    }
}

impl Deref for PoolLease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn.as_ref().expect(TAKEN).pg
    }
}

impl DerefMut for PoolLease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        if !matches!(self.condition, Condition::Broken | Condition::WrongNode) {
            self.condition = Condition::Raw;
        }
        &mut self.conn.as_mut().expect(TAKEN).pg
    }
}

impl AsMut<PgConnection> for PoolLease {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let now = self.returned.unwrap_or_else(Instant::now);
        self.shared
            .observers
            .returned(|| now.saturating_duration_since(conn.leased));
        match self.condition {
            Condition::Clean => self.shared.checkin(conn, now),
            Condition::InFlight => self.shared.quarantine(conn, Left::InFlight),
            Condition::Raw => self.shared.quarantine(conn, Left::Unknown),
            Condition::WrongNode => self.shared.quarantine(conn, Left::WrongNode),
            Condition::Broken => self.shared.discard(conn, CloseReason::Broken),
        }
    }
}

impl fmt::Debug for PoolLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolLease")
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}
