//! The connection inside a transaction: an executor that remembers what happened on it.

use crate::{
    cached::hold_for_raw,
    lease::Lease as Leased,
    limits::Limits,
    savepoint::Savepoints,
    tx_status::{Dropped, Status},
};
use async_stream::try_stream;
use db_cache::TransactionWrites;
use db_core::{
    Lease, LeaseNote, Operation, Result, Statement, StatementFacts, StatementKind, TransactionAborted, Want,
};
use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::TryStreamExt;
use sqlx::{
    Acquire, Connection, Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};
use tokio::time::Instant;

/// The connection inside a [`Tx`](crate::Tx). `&mut TxConn` is an executor; mutable access to the [`PgConnection`]
/// below makes the transaction raw.
pub struct TxConn {
    pub(crate) lease: Leased,
    pub(crate) status: Status,
    pub(crate) limits: Limits,
    pub(crate) savepoints: Savepoints,
    /// By its own wish.
    read_only: bool,
    pub(crate) writes: TransactionWrites,
}

/// One statement in progress: dropped before it is done, it leaves its mark.
struct Progress<'a> {
    status: &'a mut Status,
    answered: bool,
    done: bool,
}

impl Progress<'_> {
    fn succeeded(&mut self) {
        self.status.succeeded();
        self.done = true;
    }

    fn failed(&mut self, error: &sqlx::Error) {
        self.status.failed(error);
        self.done = true;
    }

    /// Reads what follows an error, so that a rollback to a savepoint can be sent by somebody who can't wait. It is on its
    /// way already: no trip.
    async fn read_out(&mut self, pg: &mut PgConnection) {
        self.status.pending = pg.flush().await.is_err();
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if !self.done && self.answered {
            // A stream that was not read to its end: the rest of it may still fail.
            self.status.unsure = true;
            self.status.pending = true;
        } else if !self.done {
            self.status.dropped = Some(Dropped::Statement);
        }
    }
}

impl TxConn {
    pub(crate) fn new(lease: Leased, limits: Limits, read_only: bool) -> Self {
        Self {
            lease,
            status: Status::default(),
            writes: limits.cache().transaction(),
            limits,
            savepoints: Savepoints::default(),
            read_only,
        }
    }

    /// The instant at which the transaction has to be over, if there is one: the handle's deadline or the transaction's own
    /// limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.limits.deadline()
    }

    /// Somebody gets the bare connection.
    fn touched_raw(&mut self) {
        if self.writes.raw() {
            hold_for_raw(self.limits.cache(), &mut self.lease);
        }
    }

    /// The transaction has ended: says how the lease is left.
    pub(crate) fn settle(&mut self) {
        self.lease.settle(self.status.leaves(self.read_only));
    }

    /// An error once the lease was taken back: its session has ended, and the transaction with it.
    pub(crate) fn still_ours(&self) -> Result<()> {
        self.lease.revoked().map_or(Ok(()), |revoked| Err(revoked.into()))
    }

    /// Whether raw use has named statements on a session that others get next, with nobody to follow the names.
    pub(crate) fn stray_statements(&self) -> bool {
        let session = self.lease.shared_session();
        session.is_some_and(|session| !session.named_statements) && self.lease.cached_statements_size() > 0
    }

    /// The statement as it may be sent on this connection.
    fn suited(&self, statement: Statement) -> Result<Statement> {
        let statement = self.limits.sent(statement);
        let statement = statement.prepared_from(self.lease.prepare_from());
        match self.lease.shared_session() {
            Some(session) => statement.for_shared(session),
            None => Ok(statement),
        }
    }

    /// Counts a statement; `held` were prepared before.
    fn ran(&mut self, facts: &Arc<StatementFacts>, prepared: Option<&SqlStr>, held: usize) {
        match prepared {
            Some(sql) => self.lease.ran(facts, sql, held),
            None => facts.count_use(),
        }
    }

    /// The connection for one statement, unless the transaction can't go on.
    fn begin_statement(&mut self, statement: Option<&Statement>) -> Result<(Progress<'_>, &mut PgConnection, &Limits)> {
        self.still_ours()?;
        if self.status.dropped.is_some() {
            return Err(TransactionAborted::StatementCancelled.into());
        }
        if let Some(facts) = statement
            .map(Statement::facts)
            .filter(|facts| !facts.is_self_contained())
        {
            self.status.session |= facts.leaves_session_state();
            self.status.unsure |= facts.leaves_transaction_open();
        }
        if let Some(statement) = statement {
            self.lease.note(LeaseNote::Statement(statement.facts().fingerprint()));
            self.writes.ran(statement.facts());
            if statement.facts().kind() == StatementKind::TxControl {
                // It may commit, in the middle of what follows.
                self.touched_raw();
            }
        }
        let progress = Progress {
            status: &mut self.status,
            answered: false,
            done: false,
        };
        Ok((progress, self.lease.start(), &self.limits))
    }

    async fn one<T>(
        &mut self,
        statement: Option<&Statement>,
        run: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        self.ready().await?;
        let in_savepoint = self.in_savepoint();
        let held = self.lease.cached_statements_size();
        let (mut progress, pg, limits) = self.begin_statement(statement)?;
        let facts = statement.map(Statement::facts);
        // Past its limit the step is dropped with its progress not done: the transaction is then cancelled.
        let step = async move {
            let out = run(&mut *pg).await;
            match &out {
                Ok(_) => progress.succeeded(),
                Err(error) => progress.failed(error),
            }
            if in_savepoint && matches!(out, Err(sqlx::Error::Database(_))) {
                progress.read_out(pg).await;
            }
            Ok(out?)
        };
        let out = limits.around(facts, step).await;
        if let Some(facts) = facts {
            self.ran(facts, statement.and_then(Operation::prepared), held);
        }
        // The server's own words for it are an error of the connection.
        out.map_err(|error| self.still_ours().err().unwrap_or(error).into())
    }

    /// A statement of the stack's own, whose text leaves nothing behind.
    pub(crate) async fn own<T>(&mut self, run: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> Result<T> {
        Ok(self.one(None, run).await?)
    }
}

impl Drop for TxConn {
    fn drop(&mut self) {
        self.limits.end_transaction();
        if self.status.left.is_some() {
            self.settle();
        }
        if self.stray_statements() {
            self.lease.close_on_drop();
        }
        // Queued only: quarantine sends it, drains and verifies. After COMMIT or ROLLBACK there is nothing to queue.
        while PgTransactionManager::get_transaction_depth(&self.lease) > 0 {
            PgTransactionManager::start_rollback(self.lease.start());
        }
    }
}

impl<'c> Executor<'c> for &'c mut TxConn {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query, Want::All);
        Box::pin(try_stream! {
            let statement = self.suited(statement?)?;
            self.ready().await?;
            let in_savepoint = self.in_savepoint();
            let held = self.lease.cached_statements_size();
            let (mut progress, pg, limits) = self.begin_statement(Some(&statement))?;
            let (facts, prepared) = (statement.facts().clone(), statement.prepared().cloned());
            let mut steps = pg.fetch_many(statement.into_replay());
            let failed = loop {
                // The limit is for the first answer: from there on the pace is the reader's.
                let next = if progress.answered {
                    steps.try_next().await
                } else {
                    let first = async { Ok(steps.try_next().await?) };
                    limits.around(Some(&facts), first).await.map_err(sqlx::Error::from)
                };
                match next {
                    // Dropped not done: the transaction is cancelled.
                    Err(error) if matches!(db_core::Error::find(&error), Some(db_core::Error::Timeout(_))) => {
                        break Some(error);
                    }
                    Ok(Some(step)) => {
                        progress.answered = true;
                        yield step;
                    }
                    Ok(None) => {
                        progress.succeeded();
                        break None;
                    }
                    Err(error) => {
                        progress.failed(&error);
                        break Some(error);
                    }
                }
            };
            drop(steps);
            if in_savepoint && matches!(failed, Some(sqlx::Error::Database(_))) {
                progress.read_out(pg).await;
            }
            drop(progress);
            self.ran(&facts, prepared.as_ref(), held);
            if let Some(error) = failed {
                self.still_ours()?;
                Err(error)?;
            }
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query, Want::First);
        Box::pin(async move {
            let statement = self.suited(statement?)?;
            let replay = statement.clone().into_replay();
            self.one(Some(&statement), async move |pg: &mut PgConnection| {
                pg.fetch_optional(replay).await
            })
            .await
        })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(self.one(None, async move |pg: &mut PgConnection| {
            pg.prepare_with(sql, parameters).await
        }))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(self.one(None, async move |pg: &mut PgConnection| pg.describe(sql).await))
    }
}

/// Generic code may begin inside: sqlx then makes a savepoint. It works on the raw connection.
impl<'c> Acquire<'c> for &'c mut TxConn {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, sqlx::Result<&'c mut PgConnection>> {
        Box::pin(async move {
            self.ready().await?;
            Ok(&mut **self)
        })
    }

    fn begin(self) -> BoxFuture<'c, sqlx::Result<Transaction<'c, Postgres>>> {
        Box::pin(async move {
            self.ready().await?;
            self.status.unsure = true;
            self.touched_raw();
            // sqlx answers a savepoint that is dropped while it begins by rolling the outer transaction back.
            let (mut progress, pg, _) = self.begin_statement(None)?;
            let begun = Transaction::begin(pg, None).await;
            match &begun {
                Ok(_) => progress.succeeded(),
                Err(error) => progress.failed(error),
            }
            begun
        })
    }
}

impl Deref for TxConn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.lease
    }
}

impl DerefMut for TxConn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.undo_at_once();
        self.status.unsure = true;
        self.status.pending = true;
        self.status.session = true;
        self.touched_raw();
        self.lease.start()
    }
}

impl fmt::Debug for TxConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxConn")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
