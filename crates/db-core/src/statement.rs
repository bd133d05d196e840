//! One SQL statement as an operation, built once from any sqlx query and replayed for each attempt.

use crate::{
    Error, Footprint, Handoff, NeedsSession, Operation, Part, Result, Rows, SharedSession, StatementFacts,
    StatementKind, Waiting, arguments,
};
use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Execute, Executor, PgConnection, Postgres, SqlSafeStr, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgRow, PgStatement},
};
use std::{
    fmt,
    future::poll_fn,
    sync::{Arc, LazyLock},
};

/// Steps that a streamed statement buffers, and may therefore replay, before it hands out the first one.
const REPLAY_ROWS: usize = 256;
/// Bytes of row data that a streamed statement buffers before it hands out the first one.
const REPLAY_BYTES: usize = 64 * 1024;

/// What the caller wants of a statement's result.
#[derive(Clone, Debug)]
pub enum Want {
    /// The count of affected rows only.
    Count,
    /// The first row; the rest is read and dropped, so that errors that come late are seen.
    First,
    /// Every row, in memory.
    All,
    /// Steps as they come: buffered up to 256 steps or 64 KiB, then handed over with back-pressure.
    Steps(Arc<Handoff>),
}

/// One SQL text with its arguments. The text may hold several statements when there are no arguments.
#[derive(Clone)]
pub struct Statement {
    sql: SqlStr,
    args: Option<PgArguments>,
    persistent: bool,
    facts: Arc<StatementFacts>,
    want: Want,
}

impl Statement {
    /// Takes any sqlx query apart.
    ///
    /// # Errors
    /// [`sqlx::Error::Encode`] when an argument could not be encoded.
    pub fn new<'q>(mut query: impl Execute<'q, Postgres>, want: Want) -> Result<Self> {
        static FACTS: LazyLock<crate::FactsCache> = LazyLock::new(crate::FactsCache::default);
        let args = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let persistent = query.persistent();
        let sql = query.sql();
        let facts = FACTS.facts(sql.as_str());
        Ok(Self {
            sql,
            args,
            persistent,
            facts,
            want,
        })
    }

    /// The query for all its rows.
    ///
    /// # Errors
    /// As [`Statement::new`].
    pub fn all<'q>(query: impl Execute<'q, Postgres>) -> Result<Self> {
        Self::new(query, Want::All)
    }

    /// What is known about the SQL text.
    pub fn facts(&self) -> &Arc<StatementFacts> {
        &self.facts
    }

    /// The SQL text.
    pub fn sql(&self) -> &str {
        self.sql.as_str()
    }

    /// The arguments as something to be hashed: their debug text holds each argument's type and every encoded byte, the
    /// bytes themselves are private to sqlx. Never for a log.
    pub fn arguments(&self) -> impl fmt::Debug + '_ {
        &self.args
    }

    /// Hands out what tells the arguments from any others, in parts that the same arguments are always cut into: the type
    /// of each and every encoded byte. For a key; never for a log.
    pub fn argument_parts(&mut self, mut part: impl FnMut(&[u8])) {
        part(&[u8::from(self.args.is_some())]);
        if let Some(args) = &mut self.args {
            arguments::parts(args, &mut part);
        }
    }

    /// The same statement, sent with another text that means the same, such as one with a comment behind it. What is known
    /// of it stays that of its own text.
    #[must_use]
    pub fn sent_as(mut self, sql: SqlStr) -> Self {
        self.sql = sql;
        self
    }

    /// The same statement for another part of its result.
    #[must_use]
    pub fn wanting(mut self, want: Want) -> Self {
        self.want = want;
        self
    }

    /// The query, to be executed once on a connection of the caller's own.
    pub fn into_replay(self) -> Replay {
        Replay {
            sql: self.sql,
            args: self.args,
            persistent: self.persistent,
        }
    }

    /// The same statement as it may be sent inside a transaction through a transaction pooler.
    ///
    /// # Errors
    /// [`NeedsSession::Statement`] when it would leave something in the session.
    pub fn for_shared(mut self, session: &SharedSession) -> Result<Self> {
        if self.facts.leaves_session_state() && self.facts.kind() != StatementKind::Unknown {
            return Err(NeedsSession::Statement.into());
        }
        self.persistent &= session.named_statements;
        if let Some(comment) = &session.afresh
            && self.persistent
            && self.args.is_some()
        {
            self.sql = AssertSqlSafe(format!("{} {comment}", self.sql.as_str())).into_sql_str();
        }
        Ok(self)
    }

    /// The same statement, kept prepared only from its use `first` on.
    #[must_use]
    pub fn prepared_from(mut self, first: u64) -> Self {
        self.persistent &= self.facts.uses().saturating_add(1) >= first;
        self
    }

    /// Whether it must not be put into a transaction: it may begin or end one itself.
    fn stands_alone(&self) -> bool {
        let known = matches!(
            self.facts.kind(),
            StatementKind::Read | StatementKind::Write | StatementKind::Session
        );
        !known || self.facts.controls_transaction()
    }

    fn replay(&self) -> Replay {
        Replay {
            sql: self.sql.clone(),
            args: self.args.clone(),
            persistent: self.persistent,
        }
    }

    async fn steps(&self, conn: &mut PgConnection, handoff: &Handoff) -> Result<()> {
        handoff.reset();
        let mut stream = conn.fetch_many(self.replay());
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(step) = stream.try_next().await? {
            if let Either::Right(row) = &step {
                bytes += row_bytes(row);
            }
            batch.push(step);
            if batch.len() >= REPLAY_ROWS || bytes >= REPLAY_BYTES {
                let _reader = Waiting::on(Part::Stream);
                poll_fn(|cx| handoff.poll_put(&mut batch, cx)).await;
                bytes = 0;
            }
        }
        handoff.finish(&mut batch);
        Ok(())
    }
}

/// The size of a row's values, in bytes, as they came over the wire.
pub fn row_bytes(row: &PgRow) -> usize {
    use sqlx::{Row, ValueRef};
    (0..row.len())
        .filter_map(|i| row.try_get_raw(i).ok())
        .filter(|value| !value.is_null())
        .map(|value| value.as_bytes().map_or(0, <[u8]>::len))
        .sum()
}

impl Operation for Statement {
    type Output = Rows;

    async fn run(&self, conn: &mut PgConnection) -> Result<Rows> {
        let mut out = Rows::default();
        match &self.want {
            Want::First => out.rows.extend(conn.fetch_optional(self.replay()).await?),
            Want::Steps(handoff) => self.steps(conn, handoff).await?,
            want => {
                let all = matches!(want, Want::All);
                let mut stream = conn.fetch_many(self.replay());
                while let Some(step) = stream.try_next().await? {
                    match step {
                        Either::Left(result) => out.result.extend([result]),
                        Either::Right(row) if all => out.rows.push(row),
                        Either::Right(_) => {}
                    }
                }
            }
        }
        Ok(out)
    }

    async fn run_unprepared(&self, conn: &mut PgConnection) -> Result<Rows> {
        let mut once = self.clone();
        once.persistent = false;
        once.run(conn).await
    }

    fn prepared(&self) -> Option<&SqlStr> {
        (self.persistent && self.args.is_some()).then_some(&self.sql)
    }

    async fn run_shared(&self, conn: &mut PgConnection, session: &SharedSession) -> Result<Rows> {
        let mut alone = self.clone().for_shared(session)?;
        let bare = alone.args.as_ref().is_none_or(|args| args.len() == 0);
        // One without a name is bound in a trip of its own, which the pooler may send to another server.
        if alone.persistent || alone.args.is_none() {
            return alone.run(conn).await;
        }
        if bare && self.stands_alone() {
            // The simple protocol names nothing.
            alone.args = None;
            return alone.run(conn).await;
        }
        // Parse and Bind are two trips, which a pooler may send to two servers unless a transaction holds them together.
        conn.execute(sqlx::raw_sql(AssertSqlSafe(session.begin(None)))).await?;
        match alone.run(conn).await {
            Ok(rows) => {
                conn.execute(sqlx::raw_sql("COMMIT")).await?;
                Ok(rows)
            }
            Err(Error::Server(server)) if !server.is_fatal() => {
                conn.execute(sqlx::raw_sql("ROLLBACK")).await?;
                Err(Error::Server(server))
            }
            Err(error) => Err(error),
        }
    }

    fn footprint(&self) -> Footprint {
        if self.facts.is_self_contained() {
            Footprint::None
        } else {
            Footprint::Session
        }
    }

    fn replayable(&self) -> bool {
        !matches!(&self.want, Want::Steps(handoff) if handoff.started())
    }

    fn concurrent(&self) -> bool {
        // Both runs of a stream would fill the same hand-off.
        !matches!(&self.want, Want::Steps(_))
    }

    fn facts(&self) -> Option<&Arc<StatementFacts>> {
        Some(&self.facts)
    }

    fn arguments(&self) -> Option<&(dyn fmt::Debug + Sync)> {
        self.args.as_ref().map(|args| args as &(dyn fmt::Debug + Sync))
    }

    fn all_or_nothing(&self) -> bool {
        // `CALL` and `DO` may commit inside, `… CONCURRENTLY` leaves half an index, a text with BEGIN ends anywhere.
        match self.facts.kind() {
            StatementKind::Read | StatementKind::Write => {
                self.facts.statements() <= 1 || self.facts.is_self_contained()
            }
            StatementKind::Session => self.facts.statements() <= 1,
            _ => false,
        }
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the text nor the arguments: both may hold secrets.
        f.debug_struct("Statement")
            .field("fingerprint", &self.facts.fingerprint())
            .finish_non_exhaustive()
    }
}

/// A query that can be executed once more: sqlx's own query types are consumed by their first use.
pub struct Replay {
    sql: SqlStr,
    args: Option<PgArguments>,
    persistent: bool,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

impl Execute<'_, Postgres> for Replay {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        Ok(self.args.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}
