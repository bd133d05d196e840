// A small ledger service as it was written for sqlx's pool. Whoever includes this says what `Pool` is; nothing else in
// here may know.

use futures::TryStreamExt;
use sqlx::{
    Acquire, Column, Either, Executor, FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder, Row, Statement,
    TypeInfo, migrate::Migrator, postgres::PgRow,
};
// An extension trait of `PgPool`; the methods are there without it on a type that has them of its own.
#[allow(unused_imports, reason = "not every `Pool` needs it")]
use sqlx::postgres::PgPoolCopyExt;
use std::{error::Error, path::Path};

#[derive(Debug, Clone, PartialEq, FromRow)]
struct Account {
    id: i64,
    owner: String,
    balance: i64,
    note: Option<String>,
}

/// Everything that the service has answered.
pub(crate) type Report = Vec<(&'static str, String)>;

#[derive(Clone)]
struct Ledger {
    pool: Pool,
}

impl Ledger {
    async fn migrate(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let migrator = Migrator::new(folder).await?;
        migrator.run(&self.pool).await?;
        // Once more: nothing to do.
        migrator.run(&self.pool).await?;
        Ok(())
    }

    async fn open(&self, owners: &[(&str, i64)]) -> sqlx::Result<Vec<i64>> {
        let mut insert = QueryBuilder::<Postgres>::new("INSERT INTO account (owner, balance) ");
        insert.push_values(owners, |mut row, (owner, balance)| {
            row.push_bind(*owner).push_bind(*balance);
        });
        insert.push(" RETURNING id").build_query_scalar().fetch_all(&self.pool).await
    }

    async fn transfer(&self, from: i64, to: i64, amount: i64) -> sqlx::Result<u64> {
        let mut tx = self.pool.begin().await?;
        let mut changed = add(&mut tx, from, -amount).await?;
        changed += add(&mut tx, to, amount).await?;
        let mut note = tx.begin().await?;
        sqlx::query("UPDATE account SET note = $2 WHERE id = $1").bind(to).bind(format!("from {from}")).execute(&mut *note).await?;
        note.commit().await?;
        sqlx::query("INSERT INTO entry (account, amount) VALUES ($1, $2), ($3, $4)")
            .bind(from)
            .bind(-amount)
            .bind(to)
            .bind(amount)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(changed)
    }

    async fn find(&self, id: i64) -> sqlx::Result<Option<Account>> {
        sqlx::query_as("SELECT id, owner, balance, note FROM account WHERE id = $1").bind(id).fetch_optional(&self.pool).await
    }

    async fn richer_than(&self, balance: i64, owners: &[&str]) -> sqlx::Result<Vec<Account>> {
        let mut select = QueryBuilder::<Postgres>::new("SELECT id, owner, balance, note FROM account WHERE balance > ");
        select.push_bind(balance).push(" AND owner IN (");
        let mut list = select.separated(", ");
        for owner in owners {
            list.push_bind(*owner);
        }
        select.push(") ORDER BY id").build_query_as().fetch_all(&self.pool).await
    }

    async fn sum_by_stream(&self) -> sqlx::Result<(u32, i64)> {
        let mut entries = sqlx::query_as::<_, (i64,)>("SELECT amount FROM entry ORDER BY id").fetch(&self.pool);
        let mut sum = (0, 0);
        while let Some((amount,)) = entries.try_next().await? {
            sum = (sum.0 + 1, sum.1 + amount.abs());
        }
        Ok(sum)
    }

    async fn import(&self, lines: &str) -> sqlx::Result<u64> {
        let mut copy = self.pool.copy_in_raw("COPY entry (account, amount) FROM STDIN").await?;
        copy.send(lines.as_bytes()).await?;
        copy.finish().await
    }

    async fn export(&self) -> sqlx::Result<String> {
        let mut copy = self.pool.copy_out_raw("COPY (SELECT account, amount FROM entry ORDER BY id) TO STDOUT").await?;
        let mut text = Vec::new();
        while let Some(bytes) = copy.try_next().await? {
            text.extend_from_slice(&bytes);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// On a connection of one's own, with a setting that lasts.
    async fn with_connection(&self) -> sqlx::Result<String> {
        let mut conn = self.pool.acquire().await?;
        sqlx::query("SET TIME ZONE 'Asia/Tokyo'").execute(&mut *conn).await?;
        count(&mut *conn).await?;
        let mut tx = conn.begin().await?;
        count(&mut *tx).await?;
        tx.rollback().await?;
        sqlx::query_scalar("SHOW TIME ZONE").fetch_one(&mut *conn).await
    }
}

/// A helper that wants a connection, called with a transaction.
async fn add(conn: &mut PgConnection, id: i64, amount: i64) -> sqlx::Result<u64> {
    let done = sqlx::query("UPDATE account SET balance = balance + $2 WHERE id = $1").bind(id).bind(amount).execute(conn).await?;
    Ok(done.rows_affected())
}

/// A helper that takes any executor.
async fn count<'e>(executor: impl PgExecutor<'e>) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM account").fetch_one(executor).await
}

fn kind(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("{:?} {:?} {:?}", error.kind(), error.code(), error.constraint()),
        sqlx::Error::RowNotFound => "row not found".to_owned(),
        sqlx::Error::ColumnNotFound(name) => format!("no column {name}"),
        sqlx::Error::ColumnDecode { index, .. } => format!("can't decode {index}"),
        sqlx::Error::Io(_) => "I/O".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The whole service at work.
pub(crate) async fn run(url: &str, migrations: &Path) -> Result<Report, Box<dyn Error>> {
    let ledger = Ledger { pool: Pool::connect(url).await? };
    let pool = &ledger.pool;
    let mut report = Report::new();
    let mut say = |what: &'static str, answer: &dyn std::fmt::Debug| report.push((what, format!("{answer:?}")));

    ledger.migrate(migrations).await?;
    let ids = ledger.open(&[("ann", 100), ("bob", 50), ("eve", 0)]).await?;
    say("opened", &ids);
    say("transfer", &ledger.transfer(ids[0], ids[1], 30).await?);
    say("overdrawn", &kind(&ledger.transfer(ids[1], ids[0], 1000).await.unwrap_err()));
    say("found", &ledger.find(ids[1]).await?);
    say("not found", &ledger.find(-1).await?);
    say("rich", &ledger.richer_than(60, &["ann", "bob", "zed"]).await?);
    say("streamed", &ledger.sum_by_stream().await?);
    say("imported", &ledger.import("1\t5\n2\t6\n2\t7\n").await?);
    say("exported", &ledger.export().await?);
    say("zone", &ledger.with_connection().await?);

    say("duplicate", &kind(&sqlx::query("INSERT INTO account (owner) VALUES ('ann')").execute(pool).await.unwrap_err()));
    say("missing row", &kind(&sqlx::query("SELECT id FROM account WHERE id = 0").fetch_one(pool).await.unwrap_err()));
    let odd = sqlx::query_scalar::<_, i32>("SELECT owner FROM account").fetch_one(pool).await.unwrap_err();
    say("odd type", &kind(&odd));
    say("odd column", &kind(&sqlx::query_as::<_, Account>("SELECT 1 AS id").fetch_one(pool).await.unwrap_err()));
    say("odd import", &kind(&ledger.import("x\ty\n").await.unwrap_err()));

    let affected = sqlx::query("UPDATE account SET note = NULL").execute(pool).await?.rows_affected();
    say("affected", &affected);
    let upper = sqlx::query("SELECT owner FROM account ORDER BY id").map(|row: PgRow| row.get::<String, _>(0).to_uppercase());
    say("mapped", &upper.fetch_all(pool).await?);
    let pairs: Vec<(String, Option<String>)> = sqlx::query_as("SELECT owner, note FROM account ORDER BY id").fetch_all(pool).await?;
    say("pairs", &pairs);

    let script = "CREATE TABLE log (n int); INSERT INTO log VALUES (1), (2), (3); DELETE FROM log WHERE n > 1; SELECT n FROM log";
    let results: Vec<u64> = sqlx::raw_sql(script).execute_many(pool).map_ok(|done| done.rows_affected()).try_collect().await?;
    say("script", &results);
    let steps: Vec<String> = pool
        .fetch_many("SELECT n FROM log; UPDATE log SET n = 9; SELECT n FROM log")
        .map_ok(|step| match step {
            Either::Left(done) => format!("done {}", done.rows_affected()),
            Either::Right(row) => format!("row {}", row.get::<i32, _>(0)),
        })
        .try_collect()
        .await?;
    say("steps", &steps);
    say("whole script", &pool.execute("INSERT INTO log VALUES (1); INSERT INTO log VALUES (2)").await?.rows_affected());
    say("by text", &pool.fetch_all("SELECT n FROM log").await?.len());

    let prepared = pool.prepare(sqlx::SqlSafeStr::into_sql_str("SELECT balance + $1 AS more FROM account WHERE id = $2")).await?;
    let names: Vec<_> = prepared.columns().iter().map(|column| format!("{} {}", column.name(), column.type_info().name())).collect();
    say("prepared", &(names, format!("{:?}", prepared.parameters())));
    let more: i64 = prepared.query_scalar().bind(5_i64).bind(ids[0]).fetch_one(pool).await?;
    say("ran prepared", &more);
    say("not persistent", &sqlx::query_scalar::<_, i64>("SELECT $1::int8").bind(8_i64).persistent(false).fetch_one(pool).await?);

    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    say("in a snapshot", &count(&mut *snapshot).await?);
    snapshot.rollback().await?;
    say("count", &count(pool).await?);

    let tasks: Vec<_> = (0..8_i64)
        .map(|n| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let to = if n % 2 == 0 { 2 } else { 3 };
                ledger.transfer(1, to, 1).await
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    say("after tasks", &ledger.richer_than(-1, &["ann", "bob", "eve"]).await?);

    say("size", &(pool.size() > 0, pool.num_idle() <= pool.size() as usize, pool.is_closed()));
    pool.close().await;
    say("closed", &pool.is_closed());
    say("after the end", &count(pool).await.is_err());
    Ok(report)
}
