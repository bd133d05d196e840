//! A transaction whose commit tells the truth.

use crate::{
    db::Inner,
    lease::Lease as Leased,
    limits::Limits,
    tx_conn::TxConn,
    tx_options::TxOptions,
    tx_status::{Dropped, Status},
};
use db_cache::Wrote;
use db_core::{Call, Error, Lease, LeaseNote, LeaseState, Result, Sent, TransactionAborted};
use db_retry::TransactionRetry;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};
use tokio::time::Instant;

/// An open transaction. Derefs to [`TxConn`], an executor that remembers errors: `query.execute(&mut *tx)`.
///
/// A helper that wants `&mut PgConnection` gets it by the same expression; the transaction then counts as raw, and
/// `commit` asks the server first whether it is still whole. Dropped, it is rolled back off the caller's path.
pub struct Tx {
    conn: TxConn,
    /// Counts how it ends, where nobody else does.
    pub(crate) books: Option<TransactionRetry>,
}

/// How a transaction begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begin {
    pub(crate) options: TxOptions,
    /// The caller's own statement, in place of one made of the options.
    pub(crate) statement: Option<SqlStr>,
}

/// Why there was no commit, and whether COMMIT was sent.
pub(crate) struct NotCommitted {
    pub(crate) error: Error,
    pub(crate) sent: bool,
}

impl Begin {
    /// By the caller's own wish.
    fn reads_only(&self) -> bool {
        const READ_ONLY: &str = "READ ONLY";
        let text = self.statement.as_ref().map(SqlStr::as_str).unwrap_or_default();
        self.options.read_only || text.to_ascii_uppercase().contains(READ_ONLY)
    }
}

impl Tx {
    pub(crate) async fn begin(inner: &Arc<Inner>, call: Call, begin: &Begin) -> Result<Self> {
        let limits = Limits::new(inner, call);
        let permit = inner.breaker.admit(limits.call())?;
        let lease = match inner.lease(limits.call()).await {
            Ok(lease) => lease,
            Err(error) => {
                permit.settle(Some(&error));
                return Err(error);
            }
        };
        let decides = permit.decides();
        let begun = Self::begin_on(inner, lease, limits, begin).await;
        // The step has been counted as any statement of a transaction is.
        match decides {
            true => permit.settle(begun.as_ref().err()),
            false => permit.unknown(),
        }
        begun
    }

    /// On a lease that was idle, if there was one.
    pub(crate) async fn try_begin(inner: Arc<Inner>, lease: Option<Leased>, call: Call) -> Result<Option<Self>> {
        let Some(lease) = lease else { return Ok(None) };
        let books = inner.retries.transaction(&call).run_once();
        let mut tx = Self::begin_on(&inner, lease, Limits::new(&inner, call), &Begin::default()).await?;
        tx.books = Some(books);
        Ok(Some(tx))
    }

    pub(crate) async fn begin_on(inner: &Inner, mut lease: Leased, mut limits: Limits, begin: &Begin) -> Result<Self> {
        limits.begin_transaction(&inner.config.load().transaction, begin.options.timeout);
        let statement = match &begin.statement {
            Some(statement) => Some(statement.clone()),
            None => begin.options.begin_sql(lease.server_version_num()),
        };
        let statement = match lease.shared_session() {
            // Nothing can be set in a session that is not ours: the transaction brings its limits along.
            Some(session) => Some(AssertSqlSafe(session.begin(statement.as_ref().map(SqlStr::as_str))).into_sql_str()),
            None => statement,
        };
        let statement = match (&limits.call().tenant, statement) {
            (Some(tenant), Some(begin)) => Some(tenant.begin_with(begin)),
            (Some(tenant), None) => tenant.begin(),
            (None, begin) => begin,
        };
        // In flight from here to the end: dropped at any point, the lease is cancelled, drained and rolled back.
        let pg = lease.start();
        let begun = limits
            .around(None, async { Ok(PgTransactionManager::begin(pg, statement).await?) })
            .await;
        if let Err(error) = begun {
            if !matches!(error, Error::Timeout(_)) {
                lease.settle(LeaseState::after(&error));
            }
            return Err(error);
        }
        lease.note(LeaseNote::Begun);
        Ok(Self {
            conn: TxConn::new(lease, limits, begin.reads_only()),
            books: None,
        })
    }

    /// Commits, in one round trip unless the transaction was touched raw.
    ///
    /// # Errors
    /// [`Error::Aborted`] when a statement in it failed or was cancelled: PostgreSQL would answer COMMIT with ROLLBACK
    /// and sqlx would say `Ok`. [`Error::Server`] when the commit itself is refused (deferred constraint,
    /// serialization): nothing was committed. [`Error::CommitUnknown`] when the answer was lost. Dropping the future
    /// leaves the outcome unknown.
    pub async fn commit(mut self) -> Result<()> {
        let finished = self.finish().await;
        if let Some(books) = &mut self.books {
            match &finished {
                Ok(()) => books.committed(),
                // It can't run again: this only counts how it ended.
                Err(failed) => _ = books.on_failure(&failed.error, failed.sent, Instant::now(), None),
            }
        }
        finished.map_err(|failed| failed.error)
    }

    /// The commit, for whoever decides what follows.
    pub(crate) async fn finish(&mut self) -> Result<(), NotCommitted> {
        let early = |error| NotCommitted { error, sent: false };
        self.conn.still_ours().map_err(early)?;
        self.conn.ready().await.map_err(early)?;
        let status = self.conn.status;
        status.whole().map_err(|aborted| early(aborted.into()))?;
        if status.unsure {
            self.conn.probe().await.map_err(early)?;
        }
        let stray = self.conn.stray_statements();
        // Dropped from here on, it is not to be cancelled: it may be done.
        self.conn.status.dropped = Some(Dropped::Bookkeeping);
        let TxConn {
            lease, limits, writes, ..
        } = &mut self.conn;
        let pg = lease.start();
        if stray {
            limits
                .around(None, async { Ok(pg.clear_cached_statements().await?) })
                .await
                .map_err(early)?;
        }
        writes.committing();
        let committed = limits.around(None, async {
            while PgTransactionManager::get_transaction_depth(pg) > 0 {
                PgTransactionManager::commit(pg).await.map_err(commit_failed)?;
            }
            Ok(())
        });
        let committed = committed.await;
        // Before the caller hears of it.
        writes.end(wrote(&committed));
        match committed {
            Ok(()) => {
                self.conn.settle();
                Ok(())
            }
            // Refused before it was sent: a limit that had passed already.
            Err(Error::Timeout(timeout)) if timeout.sent == Sent::No => Err(early(Error::Timeout(timeout))),
            Err(error @ Error::Timeout(_)) => Err(NotCommitted {
                error: Error::CommitUnknown {
                    source: Box::new(error),
                },
                sent: true,
            }),
            Err(error) => {
                if matches!(error, Error::Server(_)) {
                    // Answered: the server has rolled back.
                    self.conn.status.dropped = None;
                }
                Err(NotCommitted { error, sent: true })
            }
        }
    }

    /// Rolls back and waits for it. Dropping the future, or the transaction, rolls back as well.
    ///
    /// # Errors
    /// When the connection breaks, which ends the transaction too.
    pub async fn rollback(mut self) -> Result<()> {
        let stray = self.conn.stray_statements();
        let pg = self.conn.lease.start();
        if stray {
            pg.clear_cached_statements().await?;
        }
        while PgTransactionManager::get_transaction_depth(pg) > 0 {
            PgTransactionManager::rollback(pg).await?;
        }
        self.conn.settle();
        if let Some(books) = &mut self.books {
            books.rolled_back();
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> Status {
        self.conn.status
    }
}

/// What a COMMIT has made of the transaction's writes.
fn wrote(committed: &Result<()>) -> Wrote {
    match committed {
        Ok(()) => Wrote::Settled,
        Err(Error::Timeout(timeout)) if timeout.sent == Sent::No => Wrote::Nothing,
        Err(Error::Server(_)) => Wrote::Nothing,
        Err(_) => Wrote::Unknown,
    }
}

/// Whether the server still has our transaction open and whole. Simple protocol: see `db-pool`'s reset.
pub(crate) async fn still_open(pg: &mut PgConnection) -> Result<()> {
    match sqlx::raw_sql("SELECT now() <> statement_timestamp()")
        .fetch_one(pg)
        .await
    {
        Ok(row) if row.try_get::<bool, _>(0)? => Ok(()),
        Ok(_) => Err(TransactionAborted::EndedInside.into()),
        Err(error) => match Error::from(error) {
            // Ours can't fail in a transaction that is whole: it is aborted, or this is the answer to an earlier statement
            // whose rows were not read to their end.
            Error::Server(server) if !server.is_fatal() => {
                Err(TransactionAborted::StatementFailed(server.state()).into())
            }
            error => Err(error),
        },
    }
}

fn commit_failed(error: sqlx::Error) -> Error {
    match Error::from(error) {
        Error::Server(server) if !server.is_fatal() && !server.state().is_ambiguous() => Error::Server(server),
        error => Error::CommitUnknown {
            source: Box::new(error),
        },
    }
}

impl Deref for Tx {
    type Target = TxConn;

    fn deref(&self) -> &TxConn {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut TxConn {
        &mut self.conn
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("status", &self.conn.status).finish()
    }
}
