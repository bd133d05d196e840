//! A lease of which account is kept.

use crate::record::Record;
use db_core::{Attachment, Lease, LeaseId, LeaseNote, LeaseRevoked, LeaseState, SharedSession, StatementFacts};
use sqlx::{PgConnection, SqlStr};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};
use tokio::time::Instant;

/// A lease of which account is kept from its checkout to its return. Derefs to [`PgConnection`], as the one inside.
///
/// One that was revoked is of no use any more: its session has ended on the server, whatever is sent on it fails, and its
/// return closes it.
pub struct Tracked<L: Lease> {
    lease: Option<L>,
    /// Its account, and since when it is kept.
    record: Option<(Arc<Record>, Instant)>,
}

const TAKEN: &str = "a lease holds what it tracks until it is dropped or taken apart";

impl<L: Lease> Tracked<L> {
    #[inline]
    pub(crate) fn new(lease: L, record: Option<(Arc<Record>, Instant)>) -> Self {
        Self {
            lease: Some(lease),
            record,
        }
    }

    /// The lease inside.
    pub fn get_ref(&self) -> &L {
        self.lease.as_ref().expect(TAKEN)
    }

    /// The lease inside, to change it otherwise than by using its connection.
    pub fn get_mut(&mut self) -> &mut L {
        self.lease.as_mut().expect(TAKEN)
    }

    /// The lease inside, which counts as given back from here on.
    pub fn into_inner(mut self) -> L {
        self.hand_back();
        self.lease.take().expect(TAKEN)
    }

    fn hand_back(&mut self) {
        let (Some((record, since)), Some(lease)) = (self.record.take(), self.lease.as_mut()) else {
            return;
        };
        let now = Instant::now();
        record.hand_back(now.saturating_duration_since(since));
        lease.returning(now);
        if let Some(place) = lease.attachment() {
            *place = Some(record);
        }
    }
}

impl<L: Lease> Lease for Tracked<L> {
    fn start(&mut self) -> &mut PgConnection {
        if let Some((record, _)) = &self.record {
            record.used();
        }
        self.get_mut().start()
    }

    fn shared_session(&self) -> Option<&Arc<SharedSession>> {
        self.get_ref().shared_session()
    }

    fn settle(&mut self, state: LeaseState) {
        self.get_mut().settle(state);
    }

    fn note(&mut self, note: LeaseNote) {
        if let Some((record, _)) = &self.record {
            record.note(note);
        }
        self.get_mut().note(note);
    }

    fn prepare_from(&self) -> u64 {
        self.get_ref().prepare_from()
    }

    fn ran(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr, held: usize) {
        self.get_mut().ran(facts, sql, held);
    }

    fn revoked(&self) -> Option<LeaseRevoked> {
        let own = self.record.as_ref().and_then(|(record, _)| record.revoked());
        own.or_else(|| self.get_ref().revoked())
    }

    fn id(&self) -> Option<LeaseId> {
        self.get_ref().id()
    }

    fn since(&self) -> Option<Instant> {
        self.get_ref().since()
    }

    fn returning(&mut self, now: Instant) {
        self.get_mut().returning(now);
    }

    fn attachment(&mut self) -> Option<&mut Attachment> {
        self.get_mut().attachment()
    }
}

impl<L: Lease> Deref for Tracked<L> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.get_ref()
    }
}

impl<L: Lease> DerefMut for Tracked<L> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        if let Some((record, _)) = &self.record {
            record.touch();
        }
        self.get_mut()
    }
}

impl<L: Lease> AsMut<PgConnection> for Tracked<L> {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}

impl<L: Lease> Drop for Tracked<L> {
    fn drop(&mut self) {
        self.hand_back();
    }
}

impl<L: Lease + fmt::Debug> fmt::Debug for Tracked<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
