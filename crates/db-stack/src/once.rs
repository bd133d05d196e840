//! Transactions that happen exactly once, whatever breaks: a token row, written in the same transaction, says whether it
//! was committed.

use crate::{
    Db,
    tx::{Begin, Tx},
    tx_attempts::{TxAttempts, foreign, roll_back},
    tx_conn::TxConn,
    tx_options::TxOptions,
};
use db_core::{Error, Lease, QueryClass, Result, SqlState, config::InvalidConfig};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use std::{future::Future, sync::Arc, time::Duration};

/// The table of tokens, as in `migrations/0004_once.up.sql`.
pub const ONCE_TABLE: &str = include_str!("once.sql");

/// How long a token's row is waited for that an earlier attempt holds. Own choice: longer than a server takes to notice
/// that a client has gone (`client_connection_check_interval`), shorter than the limit of a normal statement.
const WAIT: Duration = Duration::from_secs(2);
/// The longest key, in bytes: an index holds it.
const LONGEST: usize = 512;
/// One of so many calls looks for tokens that have expired.
const SWEEP: u32 = 512;
/// Tokens deleted at once, so that no sweep takes long.
const SWEPT: i64 = 1000;

/// How a transaction with a token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// It ran and was committed, with this result.
    Ran(T),
    /// It had been committed before, by an earlier attempt or an earlier call.
    AlreadyCommitted,
}

/// What the token says.
enum Token {
    /// It is ours: this is the first time.
    Taken,
    /// It was there, with the result if one was stored.
    There(Option<String>),
}

impl Db {
    /// As [`Db::transaction`], exactly once for each `key`, also when the answer to COMMIT is lost: the first statement
    /// writes a row with the key, so that another attempt, or another call with the same key, finds out whether it was
    /// committed instead of doing it twice.
    ///
    /// Needs the table of [`ONCE_TABLE`] ([`Db::create_once_table`]). A key is remembered for `transaction.token_ttl`
    /// (24 h), which must be longer than anybody keeps trying. One more round trip for each transaction.
    ///
    /// ```no_run
    /// use db_stack::{Db, Error, Once, TxConn};
    ///
    /// # async fn example(db: Db, order: String) -> Result<(), Error> {
    /// let placed = db.transaction_once(&order.clone(), async move |tx: &mut TxConn| {
    ///     sqlx::query("INSERT INTO orders (client_id) VALUES ($1)").bind(&order).execute(&mut *tx).await?;
    ///     Ok::<_, Error>(())
    /// });
    /// match placed.await? {
    ///     Once::Ran(()) => println!("placed"),
    ///     Once::AlreadyCommitted => println!("placed before"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Cancel-safe: dropped anywhere, a later call with the same key does what is still to be done.
    ///
    /// # Errors
    /// As [`Db::transaction`]. [`Error::CommitUnknown`] when nobody knew and no attempt was left, or when an earlier one
    /// still held the key on the server: call again with the same key. [`Error::Config`] when the table is missing or the
    /// key is not of 1 to 512 bytes.
    #[track_caller]
    pub fn transaction_once<T, E, F>(
        &self,
        key: &str,
        body: F,
    ) -> impl Future<Output = Result<Once<T>, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
        E: From<sqlx::Error> + 'static,
    {
        self.transaction_once_with(key, TxOptions::default(), body)
    }

    /// As [`Db::transaction_once`], with options.
    ///
    /// # Errors
    /// As [`Db::transaction_once`].
    #[track_caller]
    pub fn transaction_once_with<T, E, F>(
        &self,
        key: &str,
        options: TxOptions,
        body: F,
    ) -> impl Future<Output = Result<Once<T>, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
        E: From<sqlx::Error> + 'static,
    {
        run(Keyed::new(self, key, options), body)
    }

    /// As [`Db::transaction_once`], with the result kept in the token's row as JSON, so that every call with the same key
    /// gets the same answer. Two more round trips.
    ///
    /// # Errors
    /// As [`Db::transaction_once`]; [`sqlx::Error::Encode`] and [`sqlx::Error::Decode`] when the result is no JSON, or the
    /// key was used without a result.
    #[track_caller]
    pub fn transaction_once_stored<T, E, F>(
        &self,
        key: &str,
        body: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
        E: From<sqlx::Error> + 'static,
        T: Serialize + DeserializeOwned,
    {
        run_stored(Keyed::new(self, key, TxOptions::default()), body)
    }

    /// Creates the table of [`ONCE_TABLE`] where it is missing, for a service without migrations.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_once_table(&self) -> Result<()> {
        // Two that create it at once: one of them is told so, although nothing is wrong.
        match sqlx::raw_sql(ONCE_TABLE).execute(self).await.map_err(Error::from) {
            Err(Error::Server(server)) if AT_ONCE.contains(&server.state().code()) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Deletes up to 1,000 tokens that have expired; returns how many. Calls with a token do so by themselves now and then.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn sweep_once(&self) -> Result<u64> {
        let sweep = sqlx::query(
            "DELETE FROM db_stack_once WHERE key IN (SELECT key FROM db_stack_once WHERE expires_at < now() \
             ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        );
        let db = self.class(QueryClass::Slow);
        Ok(sweep.bind(SWEPT).execute(&db).await?.rows_affected())
    }
}

/// The attempts of a transaction with a key.
struct Keyed {
    db: Db,
    attempts: TxAttempts,
    key: Arc<str>,
}

impl Keyed {
    #[track_caller]
    fn new(db: &Db, key: &str, mut options: TxOptions) -> Self {
        options.token_wait = Some(WAIT);
        let begin = Begin {
            options,
            statement: None,
        };
        Self {
            attempts: TxAttempts::new(&db.inner, db.call_here(), begin),
            db: db.clone(),
            key: key.into(),
        }
    }

    fn check(&self) -> Result<()> {
        let fits = (1..=LONGEST).contains(&self.key.len());
        let error = || {
            InvalidConfig::one(
                "key",
                format!("{} bytes", self.key.len()),
                format!("1..={LONGEST} bytes"),
            )
        };
        if fits { Ok(()) } else { Err(error().into()) }
    }

    /// An open transaction that holds the token; or what the token says that was there.
    async fn begin<E: From<sqlx::Error> + 'static>(&mut self) -> Result<Result<Tx, Option<String>>, E> {
        self.check().map_err(foreign)?;
        let keep = self.db.inner.config.load().transaction.token_ttl;
        loop {
            let mut tx = self.attempts.begin_as::<E>().await?;
            match take(&mut tx, &self.key, keep).await {
                Ok(Token::Taken) => {
                    self.attempts.token_taken();
                    return Ok(Ok(tx));
                }
                Ok(Token::There(result)) => {
                    self.attempts.found_committed();
                    // It has only read: what is left of it is nobody's concern.
                    roll_back(tx).await;
                    return Ok(Err(result));
                }
                Err(error) if error.sqlstate() == Some(SqlState::LockNotAvailable) => {
                    self.attempts.token_held(tx, error).await.map_err(foreign)?;
                }
                Err(error) => {
                    let failed = Err(explain(error));
                    if let Some(()) = self.attempts.settle(tx, failed).await.map_err(foreign::<E>)? {
                        unreachable!("what has failed is not committed");
                    }
                }
            }
        }
    }

    /// After a commit.
    async fn sweep(&self) {
        if fastrand::u32(..SWEEP) == 0 {
            // The next one will do.
            drop(self.db.sweep_once().await);
        }
    }
}

async fn run<T, E, F>(mut keyed: Keyed, mut body: F) -> Result<Once<T>, E>
where
    F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
    E: From<sqlx::Error> + 'static,
{
    loop {
        let Ok(mut tx) = keyed.begin::<E>().await? else {
            return Ok(Once::AlreadyCommitted);
        };
        let out = keyed.attempts.within(tx.deadline(), body(&mut tx)).await;
        if let Some(value) = keyed.attempts.settle(tx, out).await? {
            keyed.sweep().await;
            return Ok(Once::Ran(value));
        }
    }
}

async fn run_stored<T, E, F>(mut keyed: Keyed, mut body: F) -> Result<T, E>
where
    F: AsyncFnMut(&mut TxConn) -> Result<T, E>,
    E: From<sqlx::Error> + 'static,
    T: Serialize + DeserializeOwned,
{
    loop {
        let mut tx = match keyed.begin::<E>().await? {
            Ok(tx) => tx,
            Err(stored) => return read(stored).map_err(E::from),
        };
        let (key, deadline) = (keyed.key.clone(), tx.deadline());
        let whole = async {
            let value = body(&mut tx).await?;
            store(&mut tx, &key, &value).await?;
            Ok::<_, E>(value)
        };
        let out = keyed.attempts.within(deadline, whole).await;
        if let Some(value) = keyed.attempts.settle(tx, out).await? {
            keyed.sweep().await;
            return Ok(value);
        }
    }
}

/// How the server says that somebody else has just created the table: by its row in a catalogue, its type, or itself.
const AT_ONCE: [&str; 3] = ["23505", "42710", "42P07"];

/// Inserts the token; 0 rows when it was there. Waits for a transaction that has inserted it and is still open, no longer
/// than BEGIN has said; the session's own limit is back when it is done.
const TAKE: &str = "WITH token AS (INSERT INTO db_stack_once (key, expires_at) \
     VALUES ($1, now() + $2 * interval '1 second') ON CONFLICT DO NOTHING RETURNING 1) \
     SELECT count(*), set_config('lock_timeout', NULL, true) FROM token";

async fn take(tx: &mut TxConn, key: &str, keep: Duration) -> Result<Token> {
    // Behind a pooler others get the session next.
    let session = tx.lease.shared_session().cloned();
    let named = session.as_ref().is_none_or(|session| session.named_statements);
    let taken = tx
        .own(async |pg: &mut PgConnection| {
            let take = sqlx::query(TAKE).persistent(named).bind(key).bind(keep.as_secs_f64());
            let taken = take.fetch_one(&mut *pg).await?.try_get::<i64, _>(0)?;
            // There the session's own limit is none: the transaction has brought it along.
            if let Some(limit) = session.as_ref().and_then(|session| session.limit("lock_timeout")) {
                pg.execute(sqlx::raw_sql(AssertSqlSafe(limit))).await?;
            }
            Ok(taken)
        })
        .await?;
    if taken > 0 {
        return Ok(Token::Taken);
    }
    let result = tx
        .own(async |pg: &mut PgConnection| {
            let read = sqlx::query_scalar("SELECT result FROM db_stack_once WHERE key = $1");
            read.persistent(named).bind(key).fetch_optional(pg).await
        })
        .await?;
    Ok(Token::There(result.flatten()))
}

async fn store<T: Serialize>(tx: &mut TxConn, key: &str, value: &T) -> sqlx::Result<()> {
    let json = serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let store = sqlx::query("UPDATE db_stack_once SET result = $2 WHERE key = $1");
    store.bind(key).bind(json).execute(tx).await.map(drop)
}

fn read<T: DeserializeOwned>(stored: Option<String>) -> sqlx::Result<T> {
    let stored = stored.ok_or_else(|| sqlx::Error::Decode("the key was used without a result".into()))?;
    serde_json::from_str(&stored).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A missing table is a fault of the set-up, and the error says what to do.
fn explain(error: Error) -> Error {
    if error.sqlstate() != Some(SqlState::UndefinedTable) {
        return error;
    }
    InvalidConfig::one(
        "db_stack_once",
        "no such table",
        "the table of db_stack::ONCE_TABLE, by a migration or Db::create_once_table()",
    )
    .into()
}
