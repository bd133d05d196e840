//! Replicas, sessions and tokens at the handle.

use crate::{
    Db,
    limits::Limits,
    nodes,
    tx::{Begin, Tx},
};
use db_core::{CausalError, CausalSession, CausalToken, Error, Result, Target};
use db_replica::{Member, ReplicaStats, position_of};
use sqlx::SqlSafeStr;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// A consistent snapshot that is never in the way of writers.
const READ_ONLY: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl Db {
    /// The same database for calls on the primary only.
    #[must_use]
    #[track_caller]
    pub fn primary(&self) -> Self {
        self.with(|call| call.target = Target::Primary)
    }

    /// The same database for reads that show everything that was committed up to `staleness` ago: on a replica that is
    /// known to have replayed that much, else on the primary. Without it a read outside a session may be as old as
    /// `replica.max_lag`. Shorter than `replica.poll_interval` costs a question to the primary, shared by all reads that
    /// wait for it.
    #[must_use]
    #[track_caller]
    pub fn replica(&self, staleness: Duration) -> Self {
        self.with(|call| call.target = Target::Fresh(staleness))
    }

    /// The same database for one session: its reads see what it wrote, and never less than before, whichever replica
    /// answers. Handles made of this one share the session; make one for each request or user.
    ///
    /// Remembered is what runs on the handle and in its transactions. A raw lease (`acquire`) and COPY are not seen.
    #[must_use]
    #[track_caller]
    pub fn session(&self) -> Self {
        self.in_session(Arc::default())
    }

    /// As [`Db::session`], for a session that has seen what `token` has, such as another process's write. Calls fail with
    /// [`Error::Causal`](db_core::Error::Causal) when the token is of another cluster or of a timeline that was lost.
    #[must_use]
    #[track_caller]
    pub fn session_from(&self, token: CausalToken) -> Self {
        self.in_session(Arc::new(CausalSession::from_token(token)))
    }

    /// As [`Db::session`], for a session that somebody else keeps.
    #[must_use]
    #[track_caller]
    pub fn in_session(&self, session: Arc<CausalSession>) -> Self {
        self.with(|call| call.session = Some(session))
    }

    /// What this handle's session has seen, to pass on: `None` outside a session and for one that has seen nothing. The
    /// position of the last write is read from the primary where it is not known yet, for `replica.probe_timeout` at most
    /// once there is a lease. Cancel-safe.
    ///
    /// # Errors
    /// When no primary answers.
    pub async fn token(&self) -> Result<Option<CausalToken>> {
        let Some(session) = &self.call.session else {
            return Ok(None);
        };
        let cluster = self.inner.replicas.cluster();
        if cluster.is_active() {
            return cluster.token(session).await;
        }
        let seen = session.seen();
        if let Some(at) = seen.primary {
            let limit = self.inner.config.load().replica.probe_timeout;
            let mut lease = self.inner.acquire(&self.call).await?;
            // A lease that is dropped with the question under way is made clean or closed.
            let position = timeout(limit, position_of(&mut lease)).await;
            let position = position.map_err(|_| Error::from(CausalError::NoPosition))??;
            session.resolved(position, Some(at), None);
        }
        Ok(session.seen().token)
    }

    /// A transaction that only reads, in one snapshot, on a replica that can show what the session has seen; on the
    /// primary when there is none, within its share for such reads. Everything else is as for [`Db::begin`], which always
    /// goes to the primary.
    ///
    /// # Errors
    /// As [`Db::begin`]; [`Error::Causal`](db_core::Error::Causal) as [`Db::session_from`].
    #[track_caller]
    pub fn read_only_transaction(&self) -> impl Future<Output = Result<Tx>> + Send + use<> {
        let (inner, call) = (self.inner.clone(), self.call_here());
        async move {
            let begin = Begin {
                statement: Some(READ_ONLY.into_sql_str()),
                ..Begin::default()
            };
            if let Some(mut picked) = inner.replicas.pick(&call).await? {
                let lease = picked.acquire(&call).await;
                picked.done(&lease);
                // A replica that can't be reached is no reason to fail: the primary reads, too.
                if let Ok(lease) = lease {
                    let limits = Limits::new(&inner, call).on_replica(picked.node());
                    return Tx::begin_on(&inner, lease, limits, &begin).await;
                }
            }
            let place = inner.replicas.place(&call).await?;
            let lease = inner.acquire(&call).await?;
            let limits = Limits::new(&inner, call).in_place(place);
            Tx::begin_on(&inner, lease, limits, &begin).await
        }
    }

    /// The nodes as they were last looked at, and where calls went.
    pub fn replicas(&self) -> ReplicaStats {
        self.inner.replicas.stats()
    }

    /// Adds a node at run time, whichever role it has; one with the same host and port is replaced. What the URL leaves
    /// out is as for the connection.
    ///
    /// # Errors
    /// [`Error::Config`](db_core::Error::Config) when the URL can't be used.
    pub fn add_node(&self, url: &str) -> Result<()> {
        let config = self.inner.config.load();
        let options = nodes::node_options(&config, &self.inner.options.load(), self.inner.own_options, url)?;
        self.inner.replicas.cluster().add(Member::new(options));
        self.inner.replicas.cluster().start();
        Ok(())
    }

    /// Removes a node at run time by its `host:port`; `false` when there is none. Reads that run on it end there.
    pub fn remove_node(&self, name: &str) -> bool {
        self.inner.replicas.cluster().remove(name)
    }

    /// Waits until every node has been looked at once, so that reads go to replicas from the first one on. `false` at the
    /// limit. Cancel-safe.
    pub async fn nodes_ready(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.inner.replicas.cluster().ready(until - Instant::now()).await
    }
}
