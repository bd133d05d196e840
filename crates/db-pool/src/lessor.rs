//! The pool as lessor: what the server says about the sessions of its leases, and taking one back.

use crate::{
    conn::Backend,
    control::{Seen, Signal},
    pool::Pool,
};
use db_core::{CloseReason, EndSession, Event, LeaseId, Lessor, Result, Session, SessionState, Signalled};
use std::{collections::HashMap, time::Duration};
use tokio::time::timeout;

/// How long one look at the server, or one signal to it, may take.
const LIMIT: Duration = Duration::from_millis(500);

impl Lessor for Pool {
    async fn examine(&self, leases: &[LeaseId]) -> Result<Vec<Session>> {
        let known: Vec<(LeaseId, Backend)> = {
            let state = self.shared.state.lock();
            let known = leases.iter().map(|lease| (*lease, state.holders.backend(*lease)));
            known
                .filter_map(|(lease, backend)| Some((lease, backend?.clone())))
                // Through a pooler nobody knows which session it is.
                .filter(|(_, backend)| backend.shared.is_none())
                .collect()
        };
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let backends = known.iter().map(|(_, backend)| backend.clone()).collect();
        let seen = timeout(LIMIT, self.shared.control.look(backends)).await;
        let seen = seen.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let mut seen: HashMap<i32, Seen> = seen.into_iter().map(|seen| (seen.pid, seen)).collect();
        let session = |(lease, backend): (LeaseId, Backend)| match seen.remove(&backend.pid) {
            Some(seen) => seen.session(lease),
            None => Session::new(lease, backend.pid, SessionState::Gone),
        };
        Ok(known.into_iter().map(session).collect())
    }

    fn is_saturated(&self) -> bool {
        self.shared.state.lock().is_saturated()
    }

    fn revoke(&self, lease: LeaseId) -> bool {
        self.shared.state.lock().holders.revoke(lease)
    }

    async fn end(&self, lease: LeaseId, how: EndSession) -> Signalled {
        let backend = self.shared.state.lock().holders.revoked(lease).cloned();
        let Some(backend) = backend else {
            return Signalled::Gone;
        };
        // Nobody can end it: its connection is closed when it comes back, and its place serves others from now on.
        if backend.shared.is_some() {
            if how == EndSession::Terminate {
                self.write_off(lease);
            }
            return Signalled::Gone;
        }
        let signal = match how {
            EndSession::Cancel => Signal::Cancel,
            EndSession::Terminate => Signal::Terminate,
        };
        let outcome = timeout(LIMIT, self.shared.control.send(&backend, signal)).await;
        let outcome = outcome.unwrap_or(Signalled::Failed);
        if how == EndSession::Terminate && outcome != Signalled::Failed {
            self.write_off(lease);
        }
        outcome
    }
}

impl Pool {
    /// The session of a revoked lease has ended: its place serves others, whatever its holder still does with it.
    fn write_off(&self, lease: LeaseId) {
        let age = {
            let mut state = self.shared.state.lock();
            let age = state.write_off(lease);
            if age.is_some() {
                state.stats.size -= 1;
                state.stats.closed[CloseReason::Revoked.index()] += 1;
            }
            age
        };
        if let Some(age) = age {
            self.shared.observers.tell(|| Event::Closed {
                reason: CloseReason::Revoked,
                age,
            });
            self.shared.emptied.notify_waiters();
            self.shared.demand.notify_one();
        }
    }
}
