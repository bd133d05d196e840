//! A transaction whose commit tells the truth.

use crate::{db::Inner, lease::Lease as Leased, limits::Limits, tx_conn::TxConn};
use db_core::{Call, Error, Lease, LeaseNote, LeaseState, Result, Sent, TransactionAborted};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// An open transaction. Derefs to [`TxConn`], an executor that remembers errors: `query.execute(&mut *tx)`.
///
/// A helper that wants `&mut PgConnection` gets it by the same expression; the transaction then counts as raw, and
/// `commit` asks the server first whether it is still whole. Dropped, it is rolled back off the caller's path.
pub struct Tx {
    conn: TxConn,
}

impl Tx {
    pub(crate) async fn begin(inner: &Arc<Inner>, call: Call, statement: Option<SqlStr>) -> Result<Self> {
        let limits = Limits::new(inner, call);
        let lease = inner.acquire(limits.call()).await?;
        Self::begin_on(lease, limits, statement).await
    }

    pub(crate) async fn begin_on(mut lease: Leased, limits: Limits, statement: Option<SqlStr>) -> Result<Self> {
        let shared = lease.shared_session().cloned();
        let statement = match shared {
            // Nothing can be set in a session that is not ours: the transaction brings its limits along.
            Some(session) => Some(AssertSqlSafe(session.begin(statement.as_ref().map(SqlStr::as_str))).into_sql_str()),
            None => statement,
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
            conn: TxConn::new(lease, limits),
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
        self.conn.still_ours()?;
        let status = self.conn.status;
        status.whole()?;
        let stray = self.conn.stray_statements();
        let TxConn { lease, limits, .. } = &mut self.conn;
        if status.unsure {
            limits.around(None, still_open(lease.start())).await?;
        }
        let pg = lease.start();
        if stray {
            limits
                .around(None, async { Ok(pg.clear_cached_statements().await?) })
                .await?;
        }
        let committed = limits.around(None, async {
            while PgTransactionManager::get_transaction_depth(pg) > 0 {
                PgTransactionManager::commit(pg).await.map_err(commit_failed)?;
            }
            Ok(())
        });
        match committed.await {
            // Refused before it was sent: a limit that had passed already.
            Err(Error::Timeout(timeout)) if timeout.sent == Sent::No => return Err(Error::Timeout(timeout)),
            Err(error @ Error::Timeout(_)) => {
                return Err(Error::CommitUnknown {
                    source: Box::new(error),
                });
            }
            committed => committed?,
        }
        self.conn.settle();
        Ok(())
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
        Ok(())
    }
}

/// Whether the server still has our transaction open and whole. Simple protocol: see `db-pool`'s reset.
async fn still_open(pg: &mut PgConnection) -> Result<()> {
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
