//! The attempts of one transaction, as an object: the body stays where it is written.

use crate::{
    db::Inner,
    tx::{Begin, NotCommitted, Tx},
    tx_status::{Dropped, Failure},
};
use db_core::RetryCause;
use db_core::{Call, Error, LimitOrigin, Result, TimeoutError, TransactionAborted};
use db_retry::{Next, TransactionRetry};
use std::{any::Any, fmt, future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long an explicit rollback may take before the lease is left to quarantine.
const ROLLBACK: Duration = Duration::from_secs(1);

/// The attempts of one transaction: [`begin`](Self::begin) one, run the body on it, [`settle`](Self::settle) it, and
/// begin again when that says so. The loop under [`Db::transaction`](crate::Db::transaction) and
/// [`transaction!`](crate::transaction), for a body that may borrow anything and still runs in a spawned task.
///
/// ```no_run
/// use db_stack::{Db, Error};
///
/// # async fn example(db: Db) -> Result<(), Error> {
/// let mut attempts = db.attempts();
/// let balance: i64 = loop {
///     let mut tx = attempts.begin().await?;
///     let out: Result<i64, Error> = async {
///         let update = sqlx::query_scalar("UPDATE accounts SET balance = balance - 1 WHERE id = $1 RETURNING balance");
///         Ok(update.bind(7).fetch_one(&mut *tx).await?)
///     }
///     .await;
///     if let Some(balance) = attempts.settle(tx, out).await? {
///         break balance;
///     }
/// };
/// # let _ = balance; Ok(()) }
/// ```
#[must_use = "a transaction that is dropped before it is settled counts as abandoned"]
pub struct TxAttempts {
    inner: Arc<Inner>,
    call: Call,
    begin: Begin,
    retry: TransactionRetry,
    /// The transaction writes a token, so that it may run again when nobody knows whether it was committed.
    token: bool,
    /// An earlier attempt of which nobody knows whether it was committed.
    doubt: Option<Error>,
}

impl TxAttempts {
    pub(crate) fn new(inner: &Arc<Inner>, call: Call, begin: Begin) -> Self {
        let mut retry = inner.retries.transaction(&call);
        if let Some(attempts) = begin.options.attempts {
            retry = retry.with_max_attempts(attempts);
        }
        if begin.options.read_only {
            retry = retry.read_only();
        }
        Self {
            inner: inner.clone(),
            call,
            token: begin.options.token_wait.is_some(),
            begin,
            retry,
            doubt: None,
        }
    }

    /// The attempt that runs, or has failed last; counted from 1.
    pub fn attempt(&self) -> u32 {
        self.retry.attempt()
    }

    /// Begins an attempt. Where that fails for a passing reason, it waits and tries again, but not for another lease once
    /// `pool.acquire_timeout` has passed: the pool has tried all that time.
    ///
    /// Cancel-safe: dropped anywhere, it leaves nothing open.
    ///
    /// # Errors
    /// That of the last attempt to begin: [`Error::Acquire`], [`Error::Network`], [`Error::Timeout`].
    pub async fn begin(&mut self) -> Result<Tx> {
        let patience = Instant::now() + self.inner.config.load().pool.acquire_timeout;
        loop {
            let error = match Tx::begin(&self.inner, self.call.clone(), &self.begin).await {
                Ok(tx) => return Ok(tx),
                Err(error) => error,
            };
            let deadline = match &error {
                Error::Acquire(_) => Some(self.call.deadline.map_or(patience, |own| own.min(patience))),
                _ => self.call.deadline,
            };
            let next = self.retry.on_failure(&error, false, Instant::now(), deadline);
            match next {
                Next::Rerun { after, .. } => pause(after).await,
                Next::Fail(_) | Next::Unknown => return Err(self.most_telling(error)),
            }
        }
    }

    /// The same with the error as the body's kind of error.
    #[doc(hidden)]
    pub async fn begin_as<E: From<sqlx::Error>>(&mut self) -> Result<Tx, E> {
        self.begin().await.map_err(foreign)
    }

    /// Begins a transaction that its holder ends, which can't run again.
    pub(crate) async fn begin_for_good(mut self) -> Result<Tx> {
        let mut tx = self.begin().await?;
        tx.books = Some(self.retry.run_once());
        Ok(tx)
    }

    /// Runs the body until `tx`'s [deadline](crate::TxConn::deadline). Past it the body is dropped.
    ///
    /// # Errors
    /// The body's own; [`Error::Timeout`], as an [`sqlx::Error`], past the deadline.
    pub async fn within<T, E>(
        &self,
        deadline: Option<Instant>,
        body: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<sqlx::Error>,
    {
        let Some(deadline) = deadline else {
            return body.await;
        };
        let since = Instant::now();
        timeout_at(deadline, body).await.unwrap_or_else(|_| {
            let origin = if self.call.deadline == Some(deadline) {
                LimitOrigin::Deadline
            } else {
                LimitOrigin::Transaction
            };
            let limit = deadline.saturating_duration_since(since);
            let error = TimeoutError::new(self.call.class, origin, limit, since.elapsed());
            Err(foreign(error.into()))
        })
    }

    /// Commits the attempt, or rolls it back when its body has failed. `None`: it failed for a passing reason, the pause
    /// is over, begin again.
    ///
    /// Rerun is what the server has rolled back for a passing reason (40001, 40P01, a stale plan) and what broke off
    /// before COMMIT was sent. That is read off the transaction, not off the body's error, which may be of any kind; only
    /// where the body used the connection raw must it be an [`sqlx::Error`], [`Error`] or boxed error to be recognised.
    ///
    /// Cancel-safe in so far as a dropped COMMIT leaves the outcome unknown, and anything else rolled back.
    ///
    /// # Errors
    /// The body's own, after a rollback; that of COMMIT as for [`Tx::commit`].
    pub async fn settle<T, E>(&mut self, tx: Tx, out: Result<T, E>) -> Result<Option<T>, E>
    where
        E: From<sqlx::Error> + 'static,
    {
        match out {
            Ok(value) => match self.commit(tx).await {
                Ok(true) => Ok(Some(value)),
                Ok(false) => Ok(None),
                Err(error) => Err(foreign(self.most_telling(error))),
            },
            Err(error) => {
                let (error, next) = self.judge(&tx, error);
                roll_back(tx).await;
                match next {
                    Some(Next::Rerun { after, .. }) => {
                        pause(after).await;
                        Ok(None)
                    }
                    Some(Next::Fail(_) | Next::Unknown) => Err(self.doubt.take().map_or(error, foreign)),
                    None => {
                        self.retry.rolled_back();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Whether it is committed; otherwise it is to run again.
    async fn commit(&mut self, mut tx: Tx) -> Result<bool> {
        let NotCommitted { error, sent } = match tx.finish().await {
            Ok(()) => {
                self.retry.committed();
                return Ok(true);
            }
            Err(failed) => failed,
        };
        let next = match (&error, tx.status().failed) {
            (Error::CommitUnknown { source }, _) if self.token && !matches!(**source, Error::Timeout(_)) => {
                self.on_cause(RetryCause::ConnectionLost)
            }
            (Error::Aborted(_), Some(Failure::StalePlan(_))) => self.on_cause(RetryCause::StalePlan),
            _ => self.retry.on_failure(&error, sent, Instant::now(), self.call.deadline),
        };
        roll_back(tx).await;
        match next {
            Next::Rerun { after, .. } => {
                if matches!(error, Error::CommitUnknown { .. }) {
                    self.doubt = Some(error);
                }
                pause(after).await;
                Ok(false)
            }
            Next::Fail(_) | Next::Unknown => Err(error),
        }
    }

    /// What to do about an attempt whose body has failed; nothing where the database had no part in it.
    fn judge<E: 'static>(&mut self, tx: &Tx, error: E) -> (E, Option<Next>) {
        let (now, deadline) = (Instant::now(), self.call.deadline);
        let status = tx.status();
        let seen = |error: &Error, retry: &mut TransactionRetry| Some(retry.on_failure(error, false, now, deadline));
        if let Err(revoked) = tx.still_ours() {
            return (error, seen(&revoked, &mut self.retry));
        }
        match status.trouble() {
            Some(Failure::Rejected(state)) => {
                let failed = TransactionAborted::StatementFailed(state).into();
                (error, seen(&failed, &mut self.retry))
            }
            Some(Failure::StalePlan(_)) => (error, Some(self.on_cause(RetryCause::StalePlan))),
            Some(Failure::Lost) => (error, Some(self.on_cause(RetryCause::ConnectionLost))),
            None => {
                let retry = &mut self.retry;
                let unseen = status.unsure || status.dropped == Some(Dropped::Statement);
                look(error, |error| match error {
                    Some(error) if unseen || matches!(error, Error::Timeout(_)) => seen(error, retry),
                    // Another database's, for all that is known.
                    _ => None,
                })
            }
        }
    }

    /// A token was there already: this transaction has been committed before.
    pub(crate) fn found_committed(&mut self) {
        self.doubt = None;
        self.retry.committed();
    }

    /// The token is ours: no earlier attempt was committed.
    pub(crate) fn token_taken(&mut self) {
        self.doubt = None;
    }

    /// Somebody else holds the token: an earlier attempt may still be open on the server. Whether to try again.
    pub(crate) async fn token_held(&mut self, tx: Tx, error: Error) -> Result<()> {
        let next = self.on_cause(RetryCause::LockTimeout);
        roll_back(tx).await;
        match next {
            Next::Rerun { after, .. } => {
                pause(after).await;
                Ok(())
            }
            Next::Fail(_) | Next::Unknown => Err(self.doubt.take().unwrap_or_else(|| Error::CommitUnknown {
                source: Box::new(error),
            })),
        }
    }

    fn on_cause(&mut self, cause: RetryCause) -> Next {
        self.retry.on_cause(cause, None, Instant::now(), self.call.deadline)
    }

    /// An attempt that may have been committed says more than a last one that was not.
    fn most_telling(&mut self, last: Error) -> Error {
        self.doubt.take().unwrap_or(last)
    }
}

impl fmt::Debug for TxAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxAttempts")
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// The stack's error as the body's kind of error.
pub(crate) fn foreign<E: From<sqlx::Error>>(error: Error) -> E {
    E::from(sqlx::Error::from(error))
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Waits for the end of an attempt, so that its locks are gone and its lease is free; what can't be ended that way is
/// left to quarantine.
pub(crate) async fn roll_back(tx: Tx) {
    let status = tx.status();
    if status.dropped.is_none() && status.failed != Some(Failure::Lost) {
        // An error means that the session has ended, and with it the transaction.
        let _ = timeout(ROLLBACK, tx.rollback()).await;
    }
}

/// Shows the error to `decide` as one of ours, if that is what it is, and gives it back as it was.
fn look<E: 'static, R>(error: E, decide: impl FnOnce(Option<&Error>) -> R) -> (E, R) {
    type Boxed = Box<dyn std::error::Error + Send + Sync>;
    let mut slot = Some(error);
    let any: &mut dyn Any = &mut slot;
    let decided = if let Some(own) = any.downcast_mut::<Option<Error>>() {
        decide(own.as_ref())
    } else if let Some(driver) = any.downcast_mut::<Option<sqlx::Error>>() {
        // Lossless, both ways.
        let own = driver.take().map(Error::from);
        let decided = decide(own.as_ref());
        *driver = own.map(sqlx::Error::from);
        decided
    } else if let Some(boxed) = any.downcast_mut::<Option<Boxed>>() {
        let own = match boxed.take().map(|boxed| boxed.downcast::<sqlx::Error>()) {
            Some(Ok(driver)) => Some(Error::from(*driver)),
            Some(Err(other)) => {
                *boxed = Some(other);
                None
            }
            None => None,
        };
        match own {
            Some(own) => {
                let decided = decide(Some(&own));
                *boxed = Some(sqlx::Error::from(own).into());
                decided
            }
            None => decide(boxed.as_ref().and_then(|boxed| boxed.downcast_ref::<Error>())),
        }
    } else {
        decide(None)
    };
    (slot.expect("what was taken out was put back"), decided)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> sqlx::Error {
        sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())
    }

    fn is_lost(error: Option<&Error>) -> bool {
        matches!(error, Some(Error::Network { .. }))
    }

    #[test]
    fn an_error_is_recognised_and_given_back() {
        assert!(look(lost(), is_lost).1);
        assert!(look(Error::from(lost()), is_lost).1);
        let boxed: Box<dyn std::error::Error + Send + Sync> = lost().into();
        let (boxed, seen) = look(boxed, is_lost);
        assert!(seen && boxed.is::<sqlx::Error>());
        let boxed: Box<dyn std::error::Error + Send + Sync> = "nothing of ours".into();
        let (boxed, seen) = look(boxed, |error| error.is_some());
        assert_eq!((boxed.to_string().as_str(), seen), ("nothing of ours", false));
        assert_eq!(look(7, |error| error.is_some()), (7, false));
    }
}
