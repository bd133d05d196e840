//! What the callers of the random proof do; each checks its own answers.

use anyhow::{Context, bail, ensure};
use db_stack::{Db, Tx};
use futures::TryStreamExt;
use sqlx::{Acquire, AssertSqlSafe, Executor, PgConnection};

use crate::prove::cancellation::ledger::Stage;

/// Every session starts with it, and only raw leases change it.
pub(crate) const WORK_MEM: &str = "4MB";

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Ask,
    AskSlowly,
    Fail,
    Insert,
    Stream,
    Messages,
    Commit,
    RollBack,
    Savepoint,
    Leave,
    Session,
    CopyIn,
    CopyOut,
    Lent,
}

impl Act {
    const ALL: [Self; 14] = [
        Self::Ask,
        Self::AskSlowly,
        Self::Fail,
        Self::Insert,
        Self::Stream,
        Self::Messages,
        Self::Commit,
        Self::RollBack,
        Self::Savepoint,
        Self::Leave,
        Self::Session,
        Self::CopyIn,
        Self::CopyOut,
        Self::Lent,
    ];

    pub(crate) fn random(dice: &mut fastrand::Rng) -> Self {
        // Half of all are plain questions: they are the later callers who would see what others left.
        if dice.bool() {
            Self::Ask
        } else {
            Self::ALL[dice.usize(0..Self::ALL.len())]
        }
    }

    /// Does it once. `id` is unique: the answer to every question, and the row that may be written.
    pub(crate) async fn run(self, db: &Db, id: i64, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::Ask => ask(db, id).await,
            Self::AskSlowly => {
                let answer = sqlx::query_scalar("SELECT $1::int8 FROM pg_sleep(0.002)").bind(id);
                same(answer.fetch_one(db).await?, id)
            }
            Self::Fail => fail(db, id).await,
            Self::Insert => {
                stage.sending();
                insert(db, id).await?;
                stage.acknowledged();
                Ok(())
            }
            Self::Stream => stream(db, id).await,
            Self::Messages => messages(db, id).await,
            Self::Commit | Self::RollBack | Self::Savepoint | Self::Leave => {
                self.transact(db.begin().await?, id, stage).await
            }
            Self::Session => session(&mut *db.acquire().await?, id).await,
            Self::CopyIn => copy_in(&mut *db.acquire().await?, id, stage).await,
            Self::CopyOut => copy_out(&mut *db.acquire().await?, id).await,
            Self::Lent => lent(db, id, stage).await,
        }
    }

    async fn transact(self, mut tx: Tx, id: i64, stage: &Stage) -> anyhow::Result<()> {
        insert(&mut *tx, id).await?;
        ask(&mut *tx, id).await?;
        match self {
            Self::RollBack => tx.rollback().await?,
            // Dropped open: rolled back off our path.
            Self::Leave => drop(tx),
            Self::Savepoint => {
                let mut inner = Acquire::begin(&mut *tx).await?;
                insert(&mut *inner, id).await?;
                inner.rollback().await?;
                ask(&mut *tx, id).await?;
                stage.sending();
                tx.commit().await?;
                stage.acknowledged();
            }
            _ => {
                stage.sending();
                tx.commit().await?;
                stage.acknowledged();
            }
        }
        Ok(())
    }
}

fn same(answer: i64, id: i64) -> anyhow::Result<()> {
    ensure!(answer == id, "asked for {id}, got {answer}");
    Ok(())
}

/// The nonce back, and a session as it was set up.
async fn ask<'c>(on: impl Executor<'c, Database = sqlx::Postgres>, id: i64) -> anyhow::Result<()> {
    let (answer, work_mem): (i64, String) = sqlx::query_as("SELECT $1::int8, current_setting('work_mem')")
        .bind(id)
        .fetch_one(on)
        .await?;
    ensure!(work_mem == WORK_MEM, "work_mem leaked: {work_mem}");
    same(answer, id)
}

async fn insert<'c>(on: impl Executor<'c, Database = sqlx::Postgres>, id: i64) -> sqlx::Result<()> {
    let done = sqlx::query("INSERT INTO written VALUES ($1)")
        .bind(id)
        .execute(on)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

/// The error must be our own, and no other.
async fn fail(db: &Db, id: i64) -> anyhow::Result<()> {
    let answer = sqlx::query_scalar::<_, i64>("SELECT 1 / ($1::int8 - $1::int8)")
        .bind(id)
        .fetch_one(db)
        .await;
    match answer {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22012") => Ok(()),
        Err(error) => Err(error).context("instead of a division by zero"),
        Ok(answer) => bail!("instead of a division by zero: {answer}"),
    }
}

/// Reads a part of more rows than the stack buffers, then drops the stream.
async fn stream(db: &Db, id: i64) -> anyhow::Result<()> {
    let mut rows = sqlx::query_scalar::<_, i64>("SELECT $1::int8 + i FROM generate_series(0, 2999) AS i")
        .bind(id)
        .fetch(db);
    for i in 0..id % 3500 {
        match rows.try_next().await? {
            Some(answer) => same(answer, id + i)?,
            None => return same(i, 3000),
        }
    }
    Ok(())
}

async fn messages(db: &Db, id: i64) -> anyhow::Result<()> {
    let text = AssertSqlSafe(format!(
        "SELECT {id}::int8; SELECT pg_sleep(0.001); SELECT {id}::int8 + 1"
    ));
    let rows = sqlx::raw_sql(text).fetch_all(db).await?;
    ensure!(rows.len() == 3, "{} rows instead of 3", rows.len());
    same(sqlx::Row::try_get(&rows[0], 0)?, id)?;
    same(sqlx::Row::try_get(&rows[2], 0)?, id + 1)
}

/// Leaves everything behind that a session can hold.
async fn session(pg: &mut PgConnection, id: i64) -> anyhow::Result<()> {
    let mess = AssertSqlSafe(format!(
        "SET work_mem = '77MB'; SET application_name = 'leaked'; LISTEN leaked; CREATE TEMP TABLE leaked (); \
         SELECT pg_advisory_lock({id})"
    ));
    pg.execute(sqlx::raw_sql(mess)).await?;
    pg.execute(sqlx::raw_sql("BEGIN; DECLARE leaked CURSOR WITH HOLD FOR SELECT 1"))
        .await?;
    insert(&mut *pg, id).await?;
    let answer = sqlx::query_scalar("SELECT $1::int8 FROM pg_sleep(0.001)").bind(id);
    same(answer.fetch_one(&mut *pg).await?, id)
}

async fn copy_in(pg: &mut PgConnection, id: i64, stage: &Stage) -> anyhow::Result<()> {
    let mut copy = pg.copy_in_raw("COPY written FROM STDIN").await?;
    copy.send(format!("{id}\n").into_bytes()).await?;
    stage.sending();
    ensure!(copy.finish().await? == 1, "COPY did not write one row");
    stage.acknowledged();
    Ok(())
}

async fn copy_out(pg: &mut PgConnection, id: i64) -> anyhow::Result<()> {
    let text = format!("COPY (SELECT {id} + i FROM generate_series(0, 2999) AS i) TO STDOUT");
    let mut rows = pg.copy_out_raw(&text).await?;
    let first = rows.try_next().await?.context("COPY gave no row")?;
    ensure!(
        first.starts_with(id.to_string().as_bytes()),
        "COPY of {id} began with {first:?}"
    );
    for _ in 0..id % 3500 {
        if rows.try_next().await?.is_none() {
            break;
        }
    }
    Ok(())
}

/// sqlx's own transaction, for generic code: its connection is lent to the inner sqlx pool.
async fn lent(db: &Db, id: i64, stage: &Stage) -> anyhow::Result<()> {
    let mut tx = Acquire::begin(db).await?;
    insert(&mut *tx, id).await?;
    ask(&mut *tx, id).await?;
    stage.sending();
    tx.commit().await?;
    stage.acknowledged();
    Ok(())
}
