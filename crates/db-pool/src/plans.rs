//! Prepared statements that outlived a change of schema. One lease meets it; all others forget their statements before
//! their next use, so that no caller has to meet it again.

use crate::{conn::Conn, lease::PoolLease, pool::Pool, shared::Shared};
use db_core::{CloseReason, Lease, LeaseState, SharedSession};
use sqlx::Connection;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::time::timeout;

/// Counts the times at which plans were found out of date. A connection of an earlier count has to forget its own.
pub(crate) struct Plans {
    epoch: AtomicU64,
    /// Tells this pool's comments from those of other processes before the same pooler.
    salt: u64,
}

impl Default for Plans {
    fn default() -> Self {
        Self {
            epoch: AtomicU64::new(0),
            salt: fastrand::u64(..),
        }
    }
}

impl Plans {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Has a pooler prepare anew what it keeps by its text: forgetting it here does not make it forget it there.
    pub(crate) fn afresh(&self, session: &mut Option<Arc<SharedSession>>, epoch: u64) {
        if let Some(session) = session.as_mut().filter(|session| session.named_statements && epoch > 0) {
            let comment = format!("/* {:x} */", self.salt.wrapping_add(epoch));
            Arc::make_mut(session).afresh = Some(comment.into());
        }
    }

    /// A statement on `conn` was out of date or gone. A connection that was behind already is no news.
    pub(crate) fn found_stale(&self, conn: &Conn) {
        // Fails when somebody else has just said the same.
        let _ = self
            .epoch
            .compare_exchange(conn.plans, conn.plans + 1, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(crate) fn outdated(&self, conn: &Conn) -> bool {
        conn.plans != self.epoch()
    }

    /// Lets a connection that is behind forget its statements: one round trip, none if it has no statements.
    pub(crate) async fn renew(&self, conn: &mut Conn) -> sqlx::Result<()> {
        let epoch = self.epoch();
        if conn.plans != epoch {
            conn.pg.clear_cached_statements().await?;
            conn.book.forget();
            self.afresh(&mut conn.backend.shared, epoch);
            conn.plans = epoch;
        }
        Ok(())
    }
}

impl Shared {
    /// The lease with its outdated statements forgotten; `None` when it did not survive that.
    pub(crate) async fn renewed(&self, mut lease: PoolLease) -> Option<PoolLease> {
        let limit = self.config.load().validation_timeout;
        if matches!(timeout(limit, lease.renew_plans()).await, Ok(Ok(()))) {
            lease.settle(LeaseState::Clean);
            Some(lease)
        } else {
            lease.discard(CloseReason::Invalid);
            None
        }
    }
}

impl Pool {
    /// How often a stale plan has made all connections forget their prepared statements.
    pub fn plan_epoch(&self) -> u64 {
        self.shared.plans.epoch()
    }
}
