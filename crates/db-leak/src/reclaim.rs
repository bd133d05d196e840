//! Taking a lease back from its holder.

use crate::{ledger::Ledger, watch::Found};
use db_core::{EndSession, LeaseRevoked, Lessor, SessionState, Signalled, Suspect};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How long a holder whose statement was cancelled may take to give the lease back before its session is ended.
const GRACE: Duration = Duration::from_millis(250);
/// How often it is looked whether it has.
const STEP: Duration = Duration::from_millis(10);

/// Takes the lease back: from the moment it is revoked it can't be used by anybody else. A running statement is cancelled
/// first, which lets its holder hear of it; any other session is ended at once. What could not be ended is tried again in
/// the next round.
pub(crate) async fn take_back<C: Lessor>(ledger: &Ledger, lessor: &C, found: Found, suspect: &Arc<Suspect>) {
    let Found { record, sight } = found;
    let Some(id) = sight.id else { return };
    if !sight.revoked {
        // Marked before it happens: the holder must not meet an end that it can't explain.
        if !record.mark_revoked(&sight, Some(LeaseRevoked::of(suspect))) {
            return;
        }
        if !lessor.revoke(id) {
            record.mark_revoked(&sight, None);
            return;
        }
        ledger.revoked(suspect);
    }
    let active = suspect
        .session
        .as_ref()
        .is_some_and(|session| session.state == SessionState::Active);
    if active && lessor.end(id, EndSession::Cancel).await == Signalled::Sent {
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            sleep(STEP).await;
            if record.sight(false).is_none_or(|now| now.id != sight.id) {
                return;
            }
        }
    }
    if lessor.end(id, EndSession::Terminate).await != Signalled::Failed {
        // Its holder may keep it for ever: nobody waits for it any more.
        ledger.close(&record);
    }
}
