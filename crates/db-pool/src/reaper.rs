//! The task that ends connections that are idle for too long or have lived long enough.

use crate::{config::PoolConfig, conn::Conn, shared::Shared, state::State};
use db_core::CloseReason;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// The reaper looks at least and at most this often.
const ROUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// Ends connections as their time comes, for as long as the pool lives.
pub(crate) async fn reap(shared: Arc<Shared>) {
    loop {
        let config = shared.config.load_full();
        let shortest = [config.idle_timeout, config.max_lifetime]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(ROUNDS.1);
        sleep((shortest / 8).clamp(ROUNDS.0, ROUNDS.1)).await;
        sweep(&shared);
        shared.reconcile_lent();
    }
}

/// Ends what is due at this moment.
pub(crate) fn sweep(shared: &Shared) {
    let due = due(&mut shared.state.lock(), &shared.config.load(), Instant::now());
    if !due.is_empty() {
        shared.demand.notify_one();
    }
    for (conn, reason) in due {
        shared.part(conn, reason);
    }
}

/// Takes out what is due: from the cold end, and never below the minimum for being idle; a tenant's database has none.
fn due(state: &mut State, config: &PoolConfig, now: Instant) -> Vec<(Box<Conn>, CloseReason)> {
    let mut spare = state.stats.size.saturating_sub(config.min_connections);
    let mut over = state.open().saturating_sub(state.room);
    let mut due = Vec::new();
    for conn in std::mem::take(&mut state.idle) {
        let reason = if conn.epoch != state.epoch {
            Some(CloseReason::Epoch)
        } else if conn.expired(now) {
            Some(CloseReason::Lifetime)
        } else if over > 0 {
            Some(CloseReason::Shrunk)
        } else if (spare > 0 || conn.home.is_some())
            && config.idle_timeout.is_some_and(|limit| conn.idle_for(now) >= limit)
        {
            Some(CloseReason::Idle)
        } else {
            None
        };
        match reason {
            Some(reason) => {
                spare = spare.saturating_sub(1);
                over = over.saturating_sub(1);
                state.forget(&conn, reason);
                due.push((conn, reason));
            }
            None => state.idle.push(conn),
        }
    }
    due
}
