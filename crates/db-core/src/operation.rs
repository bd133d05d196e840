//! Something that can be done to a connection, and done again.

use crate::{NeedsSession, Result, SharedSession, StatementFacts};
use sqlx::{PgConnection, SqlStr};
use std::{fmt, future::Future, sync::Arc};

/// What an operation may leave behind on the connection when it has finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Footprint {
    /// Nothing: no open transaction, no session setting, no lock, no cursor.
    None,
    /// Anything: the lease is verified and reset before another caller gets it.
    #[default]
    Session,
}

/// Knows what to do with a connection and can do it again: one statement, or a whole transaction.
///
/// `run` is given a connection that is idle and outside any transaction. When its future is dropped half-way, the
/// lease under it is made clean or closed before anybody else gets it; an implementation needs no clean-up of its own.
pub trait Operation: Send + Sync {
    /// What a finished run yields.
    type Output: Send;

    /// Runs once on `conn`. Called again for each attempt.
    fn run(&self, conn: &mut PgConnection) -> impl Future<Output = Result<Self::Output>> + Send;

    /// Runs once on `conn` through a transaction pooler, where a named statement of one trip may be another client's at
    /// the next. The default runs where the pooler follows prepared statements and is refused elsewhere.
    fn run_shared(
        &self,
        conn: &mut PgConnection,
        session: &SharedSession,
    ) -> impl Future<Output = Result<Self::Output>> + Send {
        async move {
            if session.named_statements {
                self.run(conn).await
            } else {
                Err(NeedsSession::Prepare.into())
            }
        }
    }

    /// Runs once on `conn` without leaving a prepared statement there. The default does as [`Operation::run`].
    fn run_unprepared(&self, conn: &mut PgConnection) -> impl Future<Output = Result<Self::Output>> + Send {
        self.run(conn)
    }

    /// The text, when the operation is one statement that connections keep prepared.
    fn prepared(&self) -> Option<&SqlStr> {
        None
    }

    /// What a finished run may leave on the connection. The default trusts nothing.
    fn footprint(&self) -> Footprint {
        Footprint::Session
    }

    /// Whether another run can still replace this one; false once a row has been handed to the caller.
    fn replayable(&self) -> bool {
        true
    }

    /// Whether two runs may be under way at once, on two connections, of which one is dropped. The default says no.
    fn concurrent(&self) -> bool {
        false
    }

    /// What is known about the SQL text, when the operation is one.
    fn facts(&self) -> Option<&Arc<StatementFacts>> {
        None
    }

    /// The statement's arguments, when the operation is one that has some: shown only where somebody asked for it.
    fn arguments(&self) -> Option<&(dyn fmt::Debug + Sync)> {
        None
    }

    /// Whether a run that the server rejects has had no effect at all: one statement outside a transaction, or
    /// everything in one transaction. The default promises nothing.
    fn all_or_nothing(&self) -> bool {
        false
    }
}
