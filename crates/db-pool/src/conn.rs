//! One open connection and what the pool knows about it.

use crate::{book::Book, homes::Home, moves::Server};
use db_core::{Attachment, LeaseId, SharedSession};
use sqlx::PgConnection;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The server's process behind a connection. The start time guards against a reused process id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// As the server prints it, so that it can be compared there.
    pub(crate) started: Box<str>,
    /// Set when a transaction pooler stands in between: the process then changes, and `pid` is 0.
    pub(crate) shared: Option<Arc<SharedSession>>,
    /// Whether it watches the client's socket, which `RESET ALL` undoes.
    pub(crate) watched: bool,
    pub(crate) server: Server,
}

/// Is told how a lease's use of its connection ended: `true` once the connection is clean again, `false` when it is
/// gone, with whatever was in flight on it. Until then it goes with the connection, through quarantine too.
#[derive(Default)]
pub(crate) struct Guest(Option<Box<dyn FnOnce(bool) + Send + Sync>>);

impl Guest {
    pub(crate) fn new(ended: impl FnOnce(bool) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(ended)))
    }

    /// The connection is clean.
    pub(crate) fn leave(&mut self) {
        if let Some(ended) = self.0.take() {
            ended(true);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            ended(false);
        }
    }
}

/// An open connection.
pub(crate) struct Conn {
    pub(crate) pg: PgConnection,
    /// The database that it was opened for.
    pub(crate) home: Home,
    /// Its place in the table of holders; unique among the open connections of the pool.
    pub(crate) slot: u32,
    /// The number of its latest lease.
    pub(crate) serial: u64,
    /// When that lease was handed out.
    pub(crate) leased: Instant,
    /// What a layer around the pool keeps about it.
    pub(crate) attachment: Attachment,
    /// The endpoint's epoch under which it was dialled.
    pub(crate) epoch: u64,
    /// The count of [`Plans`](crate::plans::Plans) since which its statements were prepared.
    pub(crate) plans: u64,
    /// What is prepared on it.
    pub(crate) book: Book,
    pub(crate) backend: Backend,
    pub(crate) born: Instant,
    /// How long opening it took.
    pub(crate) opened_in: Duration,
    pub(crate) expires: Option<Instant>,
    pub(crate) last_used: Instant,
    pub(crate) guest: Guest,
}

impl Conn {
    /// Its latest lease.
    pub(crate) fn id(&self) -> LeaseId {
        LeaseId {
            slot: self.slot,
            serial: self.serial,
        }
    }

    pub(crate) fn expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }
}

/// The instant at which a connection born at `born` ends: its lifetime, shortened by up to the jitter's share, so
/// that connections opened together don't end together. Infrastructure limits are upper bounds: never longer.
pub(crate) fn expiry(born: Instant, lifetime: Option<Duration>, jitter: f64, random: f64) -> Option<Instant> {
    lifetime.map(|lifetime| born + lifetime.mul_f64(1.0 - jitter.clamp(0.0, 1.0) * random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_and_spreads() {
        let born = Instant::now();
        let life = Duration::from_secs(1800);
        assert_eq!(expiry(born, Some(life), 0.25, 0.0), Some(born + life));
        assert_eq!(expiry(born, Some(life), 0.25, 1.0), Some(born + life.mul_f64(0.75)));
        assert_eq!(expiry(born, None, 0.25, 0.5), None);
    }
}
