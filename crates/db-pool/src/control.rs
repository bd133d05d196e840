//! The control path: cancels a statement on the server, through a connection that is opened at the start, so that it
//! works when the pool is exhausted and the server full.

use crate::{census::Census, conn::Backend, shared::Shared};
use db_core::{LeaseId, Session, SessionState, Signalled, StatementFacts};
use parking_lot::Mutex;
use sqlx::{Connection, FromRow, PgConnection};
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

/// What is sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End its statement.
    Cancel,
    /// End the session.
    Terminate,
}

struct Signalling {
    backend: Backend,
    signal: Signal,
    done: oneshot::Sender<Signalled>,
}

enum Request {
    Signal(Signalling),
    Look(Vec<Backend>, oneshot::Sender<sqlx::Result<Vec<Seen>>>),
    Census(oneshot::Sender<Option<Census>>),
}

/// The way to the control task.
#[derive(Default)]
pub(crate) struct Control(Mutex<Option<mpsc::Sender<Request>>>);

impl Control {
    /// Cancels what the backend is doing. True once the server has signalled it; false when it could not, or when
    /// that backend is gone.
    pub(crate) async fn cancel(&self, backend: &Backend) -> bool {
        self.send(backend, Signal::Cancel).await == Signalled::Sent
    }

    /// Signals the backend.
    pub(crate) async fn send(&self, backend: &Backend, signal: Signal) -> Signalled {
        // Through a pooler nobody knows which process it is: closing is the way, never a guess.
        if backend.shared.is_some() {
            return Signalled::Failed;
        }
        let (done, answer) = oneshot::channel();
        let request = Request::Signal(Signalling {
            backend: backend.clone(),
            signal,
            done,
        });
        if self.request(request) {
            answer.await.unwrap_or(Signalled::Failed)
        } else {
            Signalled::Failed
        }
    }

    /// What the server says about these backends; those that are gone are left out.
    pub(crate) async fn look(&self, backends: Vec<Backend>) -> sqlx::Result<Vec<Seen>> {
        let (done, answer) = oneshot::channel();
        if self.request(Request::Look(backends, done)) {
            answer.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
        } else {
            Err(sqlx::Error::WorkerCrashed)
        }
    }

    /// What the server has for us; nothing when it can't be asked.
    pub(crate) async fn census(&self) -> Option<Census> {
        let (done, answer) = oneshot::channel();
        if self.request(Request::Census(done)) {
            answer.await.ok().flatten()
        } else {
            None
        }
    }

    fn request(&self, request: Request) -> bool {
        let requests = self.0.lock().clone();
        requests.is_some_and(|requests| requests.try_send(request).is_ok())
    }

    /// The control task: owns the connection and serves cancels in batches. Ends with the pool.
    pub(crate) async fn serve(shared: Arc<Shared>) {
        let (sender, mut requests) = mpsc::channel(QUEUE);
        *shared.control.0.lock() = Some(sender);
        // Read before the endpoint: one that moves meanwhile then shows as moved.
        let mut epoch = shared.state.lock().epoch;
        let mut conn = open(&shared).await;
        let mut batch = Vec::with_capacity(BATCH);
        let mut signals = Vec::with_capacity(BATCH);
        let mut looks = Vec::new();
        let mut counts = Vec::new();
        let mut epochs = shared.epochs.subscribe();
        loop {
            let received = tokio::select! {
                received = requests.recv_many(&mut batch, BATCH) => received,
                // At once, since with a full server it may be too late when it is needed; and nothing holds on to the
                // server of before.
                Ok(()) = epochs.changed() => {
                    let current = shared.state.lock().epoch;
                    if std::mem::replace(&mut epoch, current) != current {
                        drop(conn.take());
                        conn = open(&shared).await;
                    }
                    continue;
                }
            };
            if received == 0 {
                break;
            }
            let current = shared.state.lock().epoch;
            if std::mem::replace(&mut epoch, current) != current {
                // The endpoint has moved: the old server's backends are not ours any more.
                conn = None;
            }
            for request in batch.drain(..) {
                match request {
                    Request::Signal(signal) => signals.push(signal),
                    Request::Look(backends, done) => looks.push((backends, done)),
                    Request::Census(done) => counts.push(done),
                }
            }
            if !signals.is_empty() {
                let signalled = timeout(LIMIT, send(&shared, &mut conn, &signals)).await;
                let signalled = signalled.ok().and_then(Result::ok);
                if signalled.is_none() {
                    conn = None;
                }
                for Signalling { backend, done, .. } in signals.drain(..) {
                    // A patient that has left needs no answer.
                    let _ = done.send(match &signalled {
                        Some(pids) if pids.contains(&backend.pid) => Signalled::Sent,
                        Some(_) => Signalled::Gone,
                        None => Signalled::Failed,
                    });
                }
            }
            // After the signals, which somebody waits for on the way to a caller.
            for (backends, done) in looks.drain(..) {
                let seen = timeout(LIMIT, look(&shared, &mut conn, &backends)).await;
                let seen = seen.unwrap_or(Err(sqlx::Error::WorkerCrashed));
                if seen.is_err() {
                    conn = None;
                }
                let _ = done.send(seen);
            }
            for done in counts.drain(..) {
                let census = match conn.as_mut() {
                    Some(pg) => timeout(LIMIT, Census::take(pg)).await.ok().and_then(Result::ok),
                    None => None,
                };
                if census.is_none() {
                    conn = None;
                }
                // A governor that has stopped needs no answer.
                let _ = done.send(census);
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
    let (pg, backend) = endpoint.dial(&session, limit).await.ok()?;
    backend.shared.is_none().then_some(pg)
}

/// The keys of the backends: a process id alone may belong to another one by now.
fn keys<'a>(backends: impl Iterator<Item = &'a Backend>) -> (Vec<i32>, Vec<String>) {
    backends.map(|b| (b.pid, b.started.to_string())).unzip()
}

/// What the server says about one backend.
#[derive(FromRow)]
pub(crate) struct Seen {
    pub(crate) pid: i32,
    state: Option<String>,
    for_seconds: Option<f64>,
    waits_for: Option<String>,
    query: Option<String>,
    blocked_by: Vec<i32>,
    blocks: Vec<i32>,
}

impl Seen {
    pub(crate) fn session(self, lease: LeaseId) -> Session {
        let state = match self.state.as_deref() {
            Some(state) if state.starts_with("idle in transaction") => SessionState::IdleInTransaction,
            Some("idle") => SessionState::Idle,
            _ => SessionState::Active,
        };
        let mut session = Session::new(lease, self.pid, state);
        session.for_long = Duration::try_from_secs_f64(self.for_seconds.unwrap_or_default()).unwrap_or_default();
        session.waits_for = self.waits_for.map(Arc::from);
        // Its facts, which hold no literals: the text may hold secrets.
        let query = self.query.filter(|query| !query.is_empty());
        session.statement = query.map(|query| Arc::new(StatementFacts::of(&query)));
        session.blocked_by = self.blocked_by;
        session.blocks = self.blocks;
        session
    }
}

async fn look(shared: &Shared, conn: &mut Option<PgConnection>, backends: &[Backend]) -> sqlx::Result<Vec<Seen>> {
    let (pids, started) = keys(backends.iter());
    if conn.is_none() {
        *conn = open(shared).await;
    }
    let pg = conn.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
    // Who waits for whom is asked of those alone that wait for a lock at all: the answer takes the lock tables.
    sqlx::query_as(
        "WITH waiting AS MATERIALIZED (SELECT a.pid, pg_blocking_pids(a.pid) AS by FROM pg_stat_activity AS a \
         WHERE a.wait_event_type = 'Lock' LIMIT 100) \
         SELECT v.pid, a.state, extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS for_seconds, \
         CASE WHEN a.state = 'active' THEN a.wait_event_type || ': ' || a.wait_event END AS waits_for, a.query, \
         coalesce((SELECT w.by FROM waiting AS w WHERE w.pid = v.pid), '{}') AS blocked_by, \
         ARRAY(SELECT w.pid FROM waiting AS w WHERE v.pid = ANY (w.by)) AS blocks \
         FROM unnest($1::int4[], $2::text[]) AS v(pid, started), LATERAL pg_stat_get_activity(v.pid) AS a \
         WHERE a.backend_start::text = v.started",
    )
    .bind(&pids)
    .bind(&started)
    .fetch_all(pg)
    .await
}

/// Signals the backends that are still the ones we mean; returns their process ids.
async fn send(shared: &Shared, conn: &mut Option<PgConnection>, batch: &[Signalling]) -> sqlx::Result<Vec<i32>> {
    let (pids, started) = keys(batch.iter().map(|signal| &signal.backend));
    let terminate: Vec<bool> = batch.iter().map(|s| s.signal == Signal::Terminate).collect();
    for fresh in [false, true] {
        if conn.is_none() || fresh {
            *conn = open(shared).await;
        }
        let Some(pg) = conn.as_mut() else { break };
        let signalled = sqlx::query_scalar::<_, i32>(
            "SELECT v.pid FROM unnest($1::int4[], $2::text[], $3::bool[]) AS v(pid, started, terminate), \
             LATERAL pg_stat_get_activity(v.pid) AS a \
             WHERE a.backend_start::text = v.started \
             AND CASE WHEN v.terminate THEN pg_terminate_backend(v.pid) ELSE pg_cancel_backend(v.pid) END",
        )
        .bind(&pids)
        .bind(&started)
        .bind(&terminate)
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

/// Ends the sessions that are still held when a closing pool has waited long enough. Not through a pooler, where they
/// are other clients' by now.
pub(crate) async fn terminate(shared: &Shared, pids: &[i32]) {
    if shared.endpoint.load().shared().is_some() {
        return;
    }
    if let Some(mut pg) = open(shared).await {
        let ended = sqlx::query("SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) AS v(pid)")
            .bind(pids)
            .execute(&mut pg);
        drop(timeout(LIMIT, ended).await);
    }
}
