//! Transactions that run again when the database says that it was not their fault.

use crate::{
    Db,
    tx::{Begin, Tx},
    tx_attempts::{TxAttempts, foreign},
    tx_conn::TxConn,
    tx_options::TxOptions,
};
use db_core::{Call, Result};
use std::future::Future;

impl Db {
    /// Runs `body` in a transaction and commits it; an error of the body rolls it back. Run again is what the server has
    /// rolled back for a passing reason (deadlock, serialization failure, stale plan), and what broke off before COMMIT
    /// was sent; so the body must do nothing outside of the transaction that may not happen twice.
    ///
    /// ```no_run
    /// use db_stack::{Db, Error, TxConn};
    ///
    /// # async fn example(db: Db) -> Result<(), Error> {
    /// let (from, to) = (1_i64, 2_i64);
    /// let task = tokio::spawn(async move {
    ///     db.transaction(async move |tx: &mut TxConn| {
    ///         let update = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
    ///         sqlx::query(update).bind(from).bind(-10).execute(&mut *tx).await?;
    ///         sqlx::query(update).bind(to).bind(10).execute(&mut *tx).await?;
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await
    /// });
    /// # task.await.unwrap() }
    /// ```
    ///
    /// The closure is `async move` and owns what it uses: one that borrows does not compile in a spawned task. Where it has
    /// to borrow, use [`transaction!`](crate::transaction) or [`Db::attempts`].
    ///
    /// Cancel-safe: a dropped future rolls back, or leaves the outcome of a COMMIT that was sent unknown.
    ///
    /// # Errors
    /// The body's own after a rollback; those of [`Tx::commit`] and of beginning, as an [`sqlx::Error`] in the body's
    /// kind of error ([`Error::from`](db_core::Error) finds them again).
    #[track_caller]
    pub fn transaction<T, E, F>(&self, body: F) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
        E: From<sqlx::Error> + 'static,
    {
        run(self.attempts(), body)
    }

    /// As [`Db::transaction`], with options.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    #[track_caller]
    pub fn transaction_with<T, E, F>(
        &self,
        options: TxOptions,
        body: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
        E: From<sqlx::Error> + 'static,
    {
        run(self.attempts_with(options), body)
    }

    /// The attempts of one transaction, for a body that stays where it is written.
    #[track_caller]
    pub fn attempts(&self) -> TxAttempts {
        self.attempts_with(TxOptions::default())
    }

    /// As [`Db::attempts`], with options.
    #[track_caller]
    pub fn attempts_with(&self, options: TxOptions) -> TxAttempts {
        let begin = Begin {
            options,
            statement: None,
        };
        TxAttempts::new(&self.inner, self.call_here(), begin)
    }

    /// As [`Db::begin`], with options.
    ///
    /// # Errors
    /// As [`Db::begin`].
    #[track_caller]
    pub fn begin_with_options(&self, options: TxOptions) -> impl Future<Output = Result<Tx>> + Send + use<> {
        self.begin_by(self.call_here(), options)
    }

    fn begin_by(&self, call: Call, options: TxOptions) -> impl Future<Output = Result<Tx>> + Send + use<> {
        let begin = Begin {
            options,
            statement: None,
        };
        TxAttempts::new(&self.inner, call, begin).begin_for_good()
    }
}

async fn run<T, E, F>(mut attempts: TxAttempts, mut body: F) -> Result<T, E>
where
    F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
    E: From<sqlx::Error> + 'static,
{
    loop {
        let mut tx = attempts.begin().await.map_err(foreign)?;
        let out = attempts.within(tx.deadline(), body(&mut tx)).await;
        if let Some(value) = attempts.settle(tx, out).await? {
            return Ok(value);
        }
    }
}

/// Runs a block in a transaction that runs again when it was not its fault: [`Db::transaction`] for a body that may borrow
/// anything around it, and still runs in a spawned task. `tx` is a [`&mut TxConn`](TxConn), so queries run on
/// `&mut *tx`; `?` and `return` end the block, not the function around it.
///
/// ```no_run
/// use db_stack::{Db, Error, Isolation, TxOptions, transaction};
///
/// # async fn example(db: Db, names: &[String]) -> Result<(), Error> {
/// let added = transaction!(db, |tx| {
///     let mut added = 0;
///     for name in names {
///         added += sqlx::query("INSERT INTO users VALUES ($1)").bind(name).execute(&mut *tx).await?.rows_affected();
///     }
///     Ok(added)
/// })
/// .await?;
///
/// let serializable = TxOptions::new().isolation(Isolation::Serializable);
/// let count = transaction!(db, serializable, |tx| -> Result<i64, sqlx::Error> {
///     sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&mut *tx).await
/// })
/// .await?;
/// # let _ = (added, count); Ok(()) }
/// ```
///
/// Without a return type the block's errors are [`Error`](crate::Error).
#[macro_export]
macro_rules! transaction {
    ($db:expr, |$tx:ident| $body:block) => {
        $crate::transaction!($db, $crate::TxOptions::new(), |$tx| -> $crate::Result<_> $body)
    };
    ($db:expr, |$tx:ident| -> $out:ty $body:block) => {
        $crate::transaction!($db, $crate::TxOptions::new(), |$tx| -> $out $body)
    };
    ($db:expr, $options:expr, |$tx:ident| $body:block) => {
        $crate::transaction!($db, $options, |$tx| -> $crate::Result<_> $body)
    };
    ($db:expr, $options:expr, |$tx:ident| -> $out:ty $body:block) => {
        async {
            let mut attempts = $db.attempts_with($options);
            loop {
                let mut open = match attempts.begin_as().await {
                    ::core::result::Result::Ok(open) => open,
                    ::core::result::Result::Err(error) => break ::core::result::Result::Err(error),
                };
                let deadline = open.deadline();
                let $tx: &mut $crate::TxConn = &mut open;
                let out: $out = attempts.within(deadline, async { $body }).await;
                match attempts.settle(open, out).await {
                    ::core::result::Result::Ok(::core::option::Option::Some(value)) => {
                        break ::core::result::Result::Ok(value);
                    }
                    ::core::result::Result::Ok(::core::option::Option::None) => {}
                    ::core::result::Result::Err(error) => break ::core::result::Result::Err(error),
                }
            }
        }
    };
}
