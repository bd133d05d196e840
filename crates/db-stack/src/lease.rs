//! A lease of the stack: a warm connection of which account is kept.

use db_core::{Attachment, LeaseId, LeaseNote, LeaseRevoked, LeaseState, Result, SharedSession, StatementFacts};
use db_leak::Tracked;
use db_pool::PoolLease;
use sqlx::{PgConnection, SqlStr};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};
use tokio::time::Instant;

/// A connection in use: derefs to [`PgConnection`] and goes back to the pool when dropped.
///
/// Mutable access is raw access: the lease is verified and reset on its way back, off the caller's path. One that is held
/// for longer than its class allows is reported, with the line that asked for it, and may be taken back: see
/// [`Lease::revoked`] and the settings under `leak`.
pub struct Lease(pub(crate) Tracked<PoolLease>);

impl Lease {
    /// The server's process id of this session.
    pub fn backend_pid(&self) -> i32 {
        self.0.get_ref().backend_pid()
    }

    /// Takes the connection out of the pool for good; the pool may open another one in its place.
    pub fn detach(self) -> PgConnection {
        self.0.into_inner().detach()
    }

    /// Marks the connection as unusable: it is closed instead of going back.
    pub fn close_on_drop(&mut self) {
        self.0.get_mut().close_on_drop();
    }

    /// See [`PoolLease::quiet`].
    pub(crate) async fn quiet(&mut self, cancel: bool) -> Result<()> {
        self.0.get_mut().quiet(cancel).await
    }

    /// Why the lease was taken back, if it was: it had been out for too long. Its session has ended on the server, or is
    /// about to, and nothing that is sent on it arrives.
    pub fn revoked(&self) -> Option<LeaseRevoked> {
        db_core::Lease::revoked(&self.0)
    }
}

impl db_core::Lease for Lease {
    fn start(&mut self) -> &mut PgConnection {
        self.0.start()
    }

    fn shared_session(&self) -> Option<&Arc<SharedSession>> {
        self.0.shared_session()
    }

    fn settle(&mut self, state: LeaseState) {
        self.0.settle(state);
    }

    fn note(&mut self, note: LeaseNote) {
        self.0.note(note);
    }

    fn prepare_from(&self) -> u64 {
        self.0.prepare_from()
    }

    fn ran(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr, held: usize) {
        self.0.ran(facts, sql, held);
    }

    fn revoked(&self) -> Option<LeaseRevoked> {
        db_core::Lease::revoked(&self.0)
    }

    fn id(&self) -> Option<LeaseId> {
        self.0.id()
    }

    fn since(&self) -> Option<Instant> {
        self.0.since()
    }

    fn returning(&mut self, now: Instant) {
        self.0.returning(now);
    }

    fn attachment(&mut self) -> Option<&mut Attachment> {
        self.0.attachment()
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl AsMut<PgConnection> for Lease {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("inner", self.0.get_ref()).finish()
    }
}
