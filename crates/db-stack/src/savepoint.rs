//! Parts of a transaction that can be undone alone.

use crate::{
    tx::still_open,
    tx_conn::TxConn,
    tx_status::{Dropped, Failure, Status},
};
use db_core::{Error, Lease, Result};
use futures_util::FutureExt;
use sqlx::{AssertSqlSafe, PgConnection};
use std::{
    fmt,
    ops::{Deref, DerefMut},
};

/// Before the number that makes a savepoint's name. Nobody else's text is ever part of one.
const NAME: &str = "db_stack_";

/// A savepoint that was left without an end, and what was known before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    number: u32,
    before: Status,
}

/// The savepoints of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Savepoints {
    /// How many there have been: each has a name of its own.
    made: u32,
    /// How many have not come to their end.
    open: u32,
    /// The outermost one that was left without an end.
    undo: Option<Undo>,
    /// The outermost one whose work is to stay, to be released along with whatever comes next: that costs no trip, and
    /// can't be dropped half-way.
    done: Option<u32>,
}

/// A part of a transaction that can be undone alone. Derefs to [`TxConn`], so that savepoints nest to any depth.
///
/// Dropped without [`release`](Self::release), also with a statement in flight, it is undone before the next statement of
/// the transaction.
#[must_use = "a savepoint that is dropped is undone"]
pub struct Savepoint<'t> {
    conn: &'t mut TxConn,
    undo: Undo,
    open: bool,
}

impl TxConn {
    /// Runs `body` in a savepoint: an error undoes what it did, and the transaction goes on. Nests to any depth.
    ///
    /// Cancel-safe: dropped anywhere, also with a statement in flight, it is undone before the next statement of the
    /// transaction. In a spawned task the compiler may ask for more than such a closure can promise ("`Send` is not
    /// general enough"): use [`begin_savepoint`](Self::begin_savepoint) there.
    ///
    /// # Errors
    /// The body's own; [`Error::Aborted`], as an [`sqlx::Error`], when a statement in it failed and the body said
    /// nothing of it: that is undone as well.
    pub async fn savepoint<T, E>(&mut self, body: impl AsyncFnOnce(&mut Self) -> Result<T, E>) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        let foreign = |error: Error| E::from(sqlx::Error::from(error));
        let mut savepoint = self.begin_savepoint().await.map_err(foreign)?;
        match body(&mut savepoint).await {
            Ok(value) => savepoint.release().await.map(|()| value).map_err(foreign),
            Err(error) => {
                // Where it can't be undone now, the transaction can't go on, which its next statement says.
                drop(savepoint.rollback().await);
                Err(error)
            }
        }
    }

    /// A savepoint as a guard: one trip. Dropped while it begins, it leaves the transaction as it was.
    ///
    /// # Errors
    /// [`Error::Aborted`] in a transaction that is aborted; [`Error::Network`] and [`Error::Timeout`].
    pub async fn begin_savepoint(&mut self) -> Result<Savepoint<'_>> {
        self.ready().await?;
        self.status.whole()?;
        let number = self.savepoints.made;
        self.savepoints.made += 1;
        // Taken before it is sent: sent twice, it would be an error.
        let release = self.savepoints.done.take().map(release_sql).unwrap_or_default();
        self.bookkeep(format!("{release}SAVEPOINT {NAME}{number}")).await?;
        let undo = Undo {
            number,
            before: self.status,
        };
        self.savepoints.open += 1;
        Ok(Savepoint {
            conn: self,
            undo,
            open: true,
        })
    }

    /// Whether a failure may have to be undone without waiting.
    pub(crate) fn in_savepoint(&self) -> bool {
        self.savepoints.open > 0
    }

    /// Undoes what was left behind, so that the next statement finds the transaction as it should be.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        if self.savepoints.undo.is_none() && self.status.dropped != Some(Dropped::Bookkeeping) {
            return Ok(());
        }
        // Boxed: rare, and it must not make every statement's future larger.
        Box::pin(self.recover()).await
    }

    async fn recover(&mut self) -> Result<()> {
        if let Some(dropped) = self.status.dropped {
            let quiet = self.lease.quiet(dropped == Dropped::Statement).await;
            quiet.inspect_err(|_| self.status.failed = Some(Failure::Lost))?;
            self.status.dropped = None;
        }
        if let Some(undo) = self.savepoints.undo {
            let status = self.status;
            self.bookkeep(undo.sql()).await?;
            self.undone(undo, status);
        }
        Ok(())
    }

    fn undone(&mut self, undo: Undo, mut status: Status) {
        status.back_to(undo.before);
        self.status = status;
        self.savepoints.undo = None;
        // It is still there, so that the rollback can be sent twice; later ones have gone with it.
        self.savepoints.done = Some(undo.number);
    }

    /// For access that can't wait: the rollback is sent, and sqlx reads its answer before anything else.
    pub(crate) fn undo_at_once(&mut self) {
        let Some(undo) = self.savepoints.undo else { return };
        if self.status.dropped.is_some() || self.status.pending {
            // What is in flight would have to be waited for: this transaction can't go on.
            self.status.dropped = Some(Dropped::Statement);
            self.savepoints.undo = None;
            return;
        }
        // Its first poll writes the message.
        let sent = sqlx::raw_sql(AssertSqlSafe(undo.sql()))
            .execute(self.lease.start())
            .now_or_never();
        drop(sent);
        self.undone(undo, self.status);
        self.status.unsure = true;
    }

    /// One of our own statements.
    async fn bookkeep(&mut self, sql: String) -> Result<()> {
        self.bookkept(async |pg: &mut PgConnection| {
            let once = || sqlx::raw_sql(AssertSqlSafe(sql.clone()));
            match once().execute(&mut *pg).await {
                // Perhaps the end of a statement whose rows were not read to it.
                Err(sqlx::Error::Database(_)) => Ok(once().execute(pg).await.map(drop)?),
                sent => Ok(sent.map(drop)?),
            }
        })
        .await
    }

    /// Asks the server whether the transaction is open and whole.
    pub(crate) async fn probe(&mut self) -> Result<()> {
        self.bookkept(still_open).await
    }

    async fn bookkept(&mut self, run: impl AsyncFnOnce(&mut PgConnection) -> Result<()>) -> Result<()> {
        self.status.dropped = Some(Dropped::Bookkeeping);
        let done = self.limits.around(None, run(self.lease.start())).await;
        match &done {
            Err(Error::Timeout(_)) => {}
            Err(Error::Network { .. }) => {
                self.status.failed = Some(Failure::Lost);
                self.status.dropped = None;
            }
            _ => (self.status.dropped, self.status.pending) = (None, false),
        }
        done
    }
}

impl Savepoint<'_> {
    /// Keeps what was done since. Costs no trip, unless the connection was used raw.
    ///
    /// # Errors
    /// [`Error::Aborted`] when a statement since then failed or was cancelled: it is all undone instead, and the
    /// transaction goes on.
    pub async fn release(mut self) -> Result<()> {
        self.conn.ready().await?;
        let whole = match self.conn.status.whole() {
            Ok(()) if self.conn.status.unsure => self.conn.probe().await,
            whole => whole.map_err(Error::from),
        };
        match whole {
            Ok(()) => {
                self.open = false;
                self.conn.savepoints.done = Some(self.undo.number);
                Ok(())
            }
            Err(error @ Error::Aborted(_)) => {
                self.rollback().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Undoes what was done since: one trip. Dropping the future, or the savepoint, undoes it before the next statement.
    ///
    /// # Errors
    /// When the connection breaks, which undoes the whole transaction.
    pub async fn rollback(mut self) -> Result<()> {
        self.open = false;
        self.conn.savepoints.undo = Some(self.undo);
        self.conn.ready().await
    }
}

impl Undo {
    fn sql(self) -> String {
        let number = self.number;
        format!("ROLLBACK TO SAVEPOINT {NAME}{number}")
    }
}

fn release_sql(number: u32) -> String {
    format!("RELEASE SAVEPOINT {NAME}{number}; ")
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        self.conn.savepoints.open -= 1;
        if self.open {
            self.conn.savepoints.undo = Some(self.undo);
        }
    }
}

impl Deref for Savepoint<'_> {
    type Target = TxConn;

    fn deref(&self) -> &TxConn {
        self.conn
    }
}

impl DerefMut for Savepoint<'_> {
    fn deref_mut(&mut self) -> &mut TxConn {
        self.conn
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint")
            .field("number", &self.undo.number)
            .field("status", &self.conn.status)
            .finish()
    }
}
