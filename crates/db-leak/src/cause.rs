//! Why a lease is out: decided from what the server says and what its holder does.

use db_core::{LeaseCause, Session, SessionState};

/// The cause. `used` says whether its holder has used the lease since the watch looked last.
pub(crate) fn cause(session: Option<&Session>, used: bool) -> LeaseCause {
    let Some(session) = session else {
        return if used { LeaseCause::Busy } else { LeaseCause::Unknown };
    };
    let waits_for_lock = !session.blocked_by.is_empty()
        || session
            .waits_for
            .as_deref()
            .is_some_and(|wait| wait.starts_with("Lock:"));
    match session.state {
        SessionState::Gone => LeaseCause::SessionGone,
        SessionState::Active if waits_for_lock => LeaseCause::LockWait,
        // A holder that goes from statement to statement is not waiting for a slow one.
        _ if used => LeaseCause::Busy,
        SessionState::Active => LeaseCause::SlowStatement,
        SessionState::IdleInTransaction => LeaseCause::IdleInTransaction,
        SessionState::Idle => LeaseCause::Unused,
        _ => LeaseCause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::LeaseId;

    fn session(state: SessionState) -> Session {
        Session::new(LeaseId { slot: 0, serial: 1 }, 42, state)
    }

    #[test]
    fn the_servers_view_tells_them_apart() {
        let mut waits = session(SessionState::Active);
        waits.waits_for = Some("Lock: transactionid".into());
        let mut blocked = session(SessionState::Active);
        blocked.blocked_by.push(7);
        let mut reads = session(SessionState::Active);
        reads.waits_for = Some("IO: DataFileRead".into());
        for (session, used, expected) in [
            (Some(session(SessionState::Idle)), false, LeaseCause::Unused),
            (Some(session(SessionState::Idle)), true, LeaseCause::Busy),
            (
                Some(session(SessionState::IdleInTransaction)),
                false,
                LeaseCause::IdleInTransaction,
            ),
            (Some(session(SessionState::IdleInTransaction)), true, LeaseCause::Busy),
            (Some(session(SessionState::Active)), false, LeaseCause::SlowStatement),
            (Some(session(SessionState::Active)), true, LeaseCause::Busy),
            (Some(session(SessionState::Gone)), true, LeaseCause::SessionGone),
            (Some(waits), true, LeaseCause::LockWait),
            (Some(blocked), false, LeaseCause::LockWait),
            (Some(reads), false, LeaseCause::SlowStatement),
            (None, false, LeaseCause::Unknown),
            (None, true, LeaseCause::Busy),
        ] {
            assert_eq!(cause(session.as_ref(), used), expected, "{session:?}, used: {used}");
        }
    }
}
