//! The control path: cancels a statement on the server, through a connection that is opened at the start, so that it
//! works when the pool is exhausted and the server full.

use crate::{conn::Backend, shared::Shared};
use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Cancels that may wait for the control connection; more than that and the leases are closed instead.
const QUEUE: usize = 1024;
/// Cancels sent in one round trip.
const BATCH: usize = 64;
/// How long one batch may take, with a reconnect.
const LIMIT: Duration = Duration::from_millis(500);

struct Cancel {
    backend: Backend,
    done: oneshot::Sender<bool>,
}

/// The way to the control task.
#[derive(Default)]
pub(crate) struct Control(Mutex<Option<mpsc::Sender<Cancel>>>);

impl Control {
    /// Cancels what the backend is doing. True once the server has signalled it; false when it could not, or when
    /// that backend is gone.
    pub(crate) async fn cancel(&self, backend: &Backend) -> bool {
        let Some(requests) = self.0.lock().clone() else {
            return false;
        };
        let (done, answer) = oneshot::channel();
        let request = Cancel {
            backend: backend.clone(),
            done,
        };
        requests.try_send(request).is_ok() && answer.await.unwrap_or(false)
    }

    /// The control task: owns the connection and serves cancels in batches. Ends with the pool.
    pub(crate) async fn serve(shared: Arc<Shared>) {
        let (sender, mut requests) = mpsc::channel(QUEUE);
        *shared.control.0.lock() = Some(sender);
        // Read before the endpoint: one that moves meanwhile then shows as moved.
        let mut epoch = shared.state.lock().epoch;
        let mut conn = open(&shared).await;
        let mut batch = Vec::with_capacity(BATCH);
        while requests.recv_many(&mut batch, BATCH).await > 0 {
            let current = shared.state.lock().epoch;
            if std::mem::replace(&mut epoch, current) != current {
                // The endpoint has moved: the old server's backends are not ours any more.
                conn = None;
            }
            let signalled = match timeout(LIMIT, send(&shared, &mut conn, &batch)).await {
                Ok(Ok(pids)) => pids,
                Ok(Err(_)) | Err(_) => {
                    conn = None;
                    Vec::new()
                }
            };
            for cancel in batch.drain(..) {
                // A patient that has left needs no answer.
                let _ = cancel.done.send(signalled.contains(&cancel.backend.pid));
            }
            if conn.is_none() {
                conn = open(&shared).await;
            }
        }
    }

    /// Stops taking cancels.
    pub(crate) fn close(&self) {
        self.0.lock().take();
    }
}

async fn open(shared: &Shared) -> Option<PgConnection> {
    let (endpoint, session) = (shared.endpoint.load_full(), shared.session.load_full());
    let limit = shared.config.load().connect_timeout;
    endpoint.dial(&session, limit).await.ok().map(|(pg, _)| pg)
}

/// Signals the backends that are still the ones we mean; returns their process ids.
async fn send(shared: &Shared, conn: &mut Option<PgConnection>, batch: &[Cancel]) -> sqlx::Result<Vec<i32>> {
    let (pids, started): (Vec<i32>, Vec<String>) = batch
        .iter()
        .map(|c| (c.backend.pid, c.backend.started.to_string()))
        .unzip();
    for fresh in [false, true] {
        if conn.is_none() || fresh {
            *conn = open(shared).await;
        }
        let Some(pg) = conn.as_mut() else { break };
        let signalled = sqlx::query_scalar::<_, i32>(
            "SELECT v.pid FROM unnest($1::int4[], $2::text[]) AS v(pid, started), \
             LATERAL pg_stat_get_activity(v.pid) AS a \
             WHERE a.backend_start::text = v.started AND pg_cancel_backend(v.pid)",
        )
        .bind(&pids)
        .bind(&started)
        .fetch_all(&mut *pg)
        .await;
        match signalled {
            Ok(pids) => return Ok(pids),
            // Not this connection's fault: another one would say the same.
            Err(error @ sqlx::Error::Database(_)) => {
                if pg.ping().await.is_ok() {
                    return Err(error);
                }
            }
            Err(_) => {}
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

/// Ends the sessions that are still held when a closing pool has waited long enough.
pub(crate) async fn terminate(shared: &Shared, pids: &[i32]) {
    if let Some(mut pg) = open(shared).await {
        let ended = sqlx::query("SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) AS v(pid)")
            .bind(pids)
            .execute(&mut pg);
        drop(timeout(LIMIT, ended).await);
    }
}
