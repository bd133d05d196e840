//! The orderly end: nobody new, a while for those inside, then a hard stop.

use crate::{
    control,
    pool::Pool,
    shared::Shared,
    state::{Phase, Told},
};
use db_core::{AcquireFailure, CloseReason, Event, Holder};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What was left when the pool had closed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CloseReport {
    /// Those who still held a lease when the drain limit passed; their sessions were ended on the server.
    pub still_out: Vec<Holder>,
    /// Connections in sqlx's own transactions (of `Acquire::begin`) when the limit passed. The pool does not know their
    /// sessions and so can't end them: each is closed when its transaction ends or is dropped.
    pub lent_out: u32,
    /// How long closing took.
    pub took: Duration,
}

impl Pool {
    /// Stops handing out leases, waits for those out up to `drain_timeout`, then ends their sessions on the server.
    /// Callers that wait are refused at once. Dropping this future leaves the pool closed to new callers.
    pub async fn close(&self) -> CloseReport {
        let since = Instant::now();
        let limit = since + self.shared.config.load().drain_timeout;
        self.shared.shut();
        // Also when there is none yet: it must not come to life later.
        drop(timeout_at(limit, self.inner().close()).await);
        drop(timeout_at(limit, self.shared.empty()).await);
        let still_out = self.holders();
        if !still_out.is_empty() {
            let pids: Vec<_> = still_out.iter().filter_map(|holder| holder.backend_pid).collect();
            control::terminate(&self.shared, &pids).await;
        }
        self.shared.reconcile_lent();
        let lent_out = self.shared.state.lock().stats.lent;
        self.shared.control.close();
        for task in self.tasks.running.lock().drain(..) {
            task.abort();
        }
        self.shared.observers.tell(|| Event::PoolClosed {
            still_out: u32::try_from(still_out.len())
                .unwrap_or(u32::MAX)
                .saturating_add(lent_out),
        });
        CloseReport {
            still_out,
            lent_out,
            took: since.elapsed(),
        }
    }
}

impl Shared {
    /// Closed to new callers; the idle connections go, and those who wait are told.
    pub(crate) fn shut(&self) {
        let now = Instant::now();
        let (idle, told) = {
            let mut state = self.state.lock();
            state.phase = Phase::Closed;
            let idle = std::mem::take(&mut state.idle);
            for conn in &idle {
                state.forget(conn, CloseReason::Closed);
            }
            let told: Told = state
                .queue
                .drain()
                .into_iter()
                .map(|waiter| {
                    let error = state.explain(AcquireFailure::Closed, Duration::ZERO, now);
                    (waiter.payload, error)
                })
                .collect();
            (idle, told)
        };
        for conn in idle {
            self.part(conn, CloseReason::Closed);
        }
        self.send_away(told);
    }

    /// Until no connection is open.
    async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.state.lock().stats.size == 0 {
                return;
            }
            emptied.await;
        }
    }
}
