//! Connections beside the budget, for those who ask how the server is; and a new beginning by hand.

use crate::{keeper, moves::Server, pool::Pool, reaper, state::Phase};
use db_core::{AcquireError, AcquireFailure, ConnectFailure, Error, Result};
use sqlx::{Connection, PgConnection};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::lookup_host,
    runtime::Handle,
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout},
};

/// How long saying goodbye to a server may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection of one's own beside the pool's budget: works when the pool is exhausted, and is closed when dropped.
pub struct Beside {
    pg: Option<PgConnection>,
    server: Server,
}

const OPEN: &str = "it is open until it is dropped";

impl Beside {
    /// The server that was met.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Deref for Beside {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.pg.as_ref().expect(OPEN)
    }
}

impl DerefMut for Beside {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.pg.as_mut().expect(OPEN)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let (Some(pg), Ok(runtime)) = (self.pg.take(), Handle::try_current()) {
            runtime.spawn(timeout(GOODBYE, pg.close()));
        }
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Opens a connection beside the budget, set up like the pool's own. A server that has taken the place of another
    /// is noticed: connections to the other one are then closed as they come back. Cancel-safe.
    ///
    /// # Errors
    /// The real reason why there is none, after `limit` at the latest.
    pub async fn beside(&self, limit: Duration) -> Result<Beside> {
        let (beside, ..) = self.dial(limit).await?;
        let moved = self.shared.state.lock().meet(&beside.server);
        if let Some(moved) = moved {
            self.shared.moved(moved);
        }
        Ok(beside)
    }

    /// A new beginning: once a new connection has been opened, all others are closed as they come back. Nobody is
    /// failed by it; when no connection can be opened, everything stays as it is. Callers at the same time share one
    /// such attempt. Cancel-safe. Returns the new epoch.
    ///
    /// # Errors
    /// The real reason why there is no new connection.
    pub async fn reconnect(&self) -> Result<u64> {
        self.start();
        let before = self.epoch();
        let limit = self.shared.config.load().connect_timeout;
        let since = Instant::now();
        // The one before may have failed at its limit: another attempt for each who waits would make them wait in turn.
        let Ok(_one) = timeout(limit, self.shared.reconnecting.lock()).await else {
            return Err(no_connection(
                sqlx::Error::Io(io::ErrorKind::TimedOut.into()),
                since.elapsed(),
            ));
        };
        if self.epoch() != before {
            return Ok(self.epoch());
        }
        let (mut beside, backend, took) = self.dial(limit).await?;
        self.shared.next_epoch();
        // The first of the new epoch goes to whoever waits, if there is room for it.
        let room = {
            let mut state = self.shared.state.lock();
            let room = state.phase == Phase::Open && state.open() < state.room;
            state.stats.dialing += u32::from(room);
            room.then_some(state.epoch)
        };
        if let (Some(epoch), Some(pg)) = (room, room.and_then(|_| beside.pg.take())) {
            self.shared
                .connected(keeper::warm(&self.shared, pg, backend, None, epoch), took);
        }
        reaper::sweep(&self.shared);
        Ok(self.epoch())
    }

    /// The endpoint's epoch: it grows when the endpoint, its settings or the server behind it become others.
    pub fn epoch(&self) -> u64 {
        *self.shared.epochs.borrow()
    }

    /// The epoch, to be told when it grows.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.shared.epochs.subscribe()
    }

    /// While held, connections are opened only for callers that wait, and none to keep up the minimum: for those who
    /// know that the server is down. When they know that it is back, the pause after attempts that failed ends.
    pub fn hold(&self, held: bool) {
        {
            let mut state = self.shared.state.lock();
            state.back = state.held && !held;
            state.held = held;
        }
        self.shared.demand.notify_one();
    }

    /// Where the server's name leads at this moment, by the system's resolver; `None` for a unix socket, or when the
    /// resolver has no answer within `connect_timeout`.
    pub async fn addresses(&self) -> Option<BTreeSet<SocketAddr>> {
        let endpoint = self.shared.endpoint.load_full();
        let limit = self.shared.config.load().connect_timeout;
        let found = timeout(limit, async {
            let (host, port) = endpoint.name().await?;
            let found = lookup_host((host.as_str(), port)).await.ok()?;
            Some(found.collect())
        });
        found.await.ok()?
    }

    /// Whether the background tasks that should run do run.
    pub fn is_alive(&self) -> bool {
        let running = self.tasks.running.lock();
        self.is_closed() || !running.iter().any(AbortHandle::is_finished)
    }

    async fn dial(&self, limit: Duration) -> Result<(Beside, crate::conn::Backend, Duration)> {
        if self.is_closed() {
            return Err(AcquireError::new(AcquireFailure::Closed, Duration::ZERO).into());
        }
        let since = Instant::now();
        let (endpoint, session) = (self.shared.endpoint.load_full(), self.shared.session.load_full());
        match endpoint.dial(&session, limit).await {
            Ok((pg, backend)) => {
                let server = backend.server.clone();
                Ok((Beside { pg: Some(pg), server }, backend, since.elapsed()))
            }
            Err(source) => Err(no_connection(source, since.elapsed())),
        }
    }
}

pub(crate) fn no_connection(source: sqlx::Error, waited: Duration) -> Error {
    let cause = Arc::new(ConnectFailure::new(source));
    let mut error = AcquireError::new(cause.failure, waited);
    if error.failure == AcquireFailure::TimedOut {
        error.failure = AcquireFailure::Down;
    }
    error.cause = Some(cause);
    error.into()
}
