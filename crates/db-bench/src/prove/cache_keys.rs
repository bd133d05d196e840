//! Different questions never share an answer.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, ensure};
use db_stack::{CacheFetch, CacheKey, Cached, Db};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr, SqlStr, postgres::PgRow};
use tokio::task::JoinSet;

use crate::prove::{Verdict, findings::Findings, rig};

const TTL: Duration = Duration::from_secs(600);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let (questions, reads) = if quick { (20_000, 400) } else { (400_000, 10_000) };
    let server = rig::server().await?;
    let mut findings = Findings::new();
    // Whoever listens would hear nothing here: each answer has to stay as it was read.
    let db = Db::builder()
        .url(&server.url())
        .configure(|config| config.cache.listen = false);
    let db = db.connect().await?;
    distinct_keys(&db, questions, &mut findings).await?;
    tenants(&db, reads, &mut findings).await?;
    roles(&server, reads, &mut findings).await?;
    Ok(findings.verdict())
}

/// Every kind of question once: each key must be new. Of n different questions that are n (n - 1) / 2 pairs; the families
/// are the pairs that lossy keys take for one.
async fn distinct_keys(db: &Db, questions: u64, findings: &mut Findings) -> anyhow::Result<()> {
    let (mut seen, mut shared, mut asked) = (HashSet::new(), 0_u64, 0_u64);
    let mut note = |key: Option<CacheKey>| -> anyhow::Result<()> {
        asked += 1;
        shared += u64::from(!seen.insert(key.context("it has no key")?));
        Ok(())
    };
    let plain = db.cached(TTL);
    // White space and case inside of literals, comments, and identifiers.
    for text in [
        "SELECT 'a b'",
        "SELECT 'a  b'",
        "SELECT 'A b'",
        "SELECT  'a b'",
        "SELECT 'a b' ",
        "select 'a b'",
        "SELECT 'a b' -- x",
        "SELECT \"a b\"",
        "SELECT 'a\u{a0}b'",
        "SELECT 'a\tb'",
    ] {
        note(
            plain
                .key(sqlx::query_scalar::<_, String>(text), CacheFetch::All)
                .await?,
        )?;
    }
    // One text, arguments of other types, lengths and borders.
    let one = "SELECT $1";
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(1_i32), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(1_i64), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(1_i16), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind("1"), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(1.0_f64), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(true), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(None::<i32>), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(""), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(None::<&str>), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(&b"1"[..]), CacheFetch::All)
            .await?,
    )?;
    note(plain.key(sqlx::query_scalar::<_, i32>(one), CacheFetch::All).await?)?;
    // The same answer taken otherwise: another type, another part, another mapper.
    note(
        plain
            .key(sqlx::query_scalar::<_, i64>(one).bind(1_i32), CacheFetch::All)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_scalar::<_, i32>(one).bind(1_i32), CacheFetch::First)
            .await?,
    )?;
    note(
        plain
            .key(sqlx::query_as::<_, (i32,)>(one).bind(1_i32), CacheFetch::All)
            .await?,
    )?;
    note(plain.key(sqlx::query(one).bind(1_i32), CacheFetch::All).await?)?;
    let first = sqlx::query(one).bind(1_i32).map(|row: PgRow| row.len_of_first());
    note(plain.key(first, CacheFetch::All).await?)?;
    let second = sqlx::query(one).bind(1_i32).map(|row: PgRow| row.len_of_first() + 1);
    note(plain.key(second, CacheFetch::All).await?)?;
    note(
        plain
            .clone()
            .tag("x")
            .key(sqlx::query(one).bind(1_i32), CacheFetch::All)
            .await?,
    )?;
    // Borders between tenant, statement and arguments, and many of each.
    let mut dice = fastrand::Rng::with_seed(7);
    for number in 0..questions {
        let handle = match number % 3 {
            0 => plain.clone(),
            1 => db.tenant(&format!("t{}", number / 3))?.cached(TTL),
            _ => db.tenant(&format!("t{}|{number}", dice.u8(..)))?.cached(TTL),
        };
        note(scalar(&handle, &format!("SELECT {number}, $1"), "x").await?)?;
        note(scalar(&handle, "SELECT $1 /* a */", &number.to_string()).await?)?;
        let split = usize::try_from(number % 7)?;
        let text = format!("{number:08}");
        let pair = sqlx::query_scalar::<_, String>("SELECT $1 || $2")
            .bind(&text[..split])
            .bind(&text[split..]);
        note(handle.key(pair, CacheFetch::All).await?)?;
    }
    ensure!(asked > questions);
    let pairs = u128::from(asked) * u128::from(asked - 1) / 2;
    findings.note("different questions", asked);
    findings.expect("pairs compared", pairs, ">= 1,000,000", pairs >= 1_000_000);
    findings.expect("shared keys", shared, 0, shared == 0);
    Ok(())
}

async fn scalar(cached: &Cached, sql: &str, argument: &str) -> anyhow::Result<Option<CacheKey>> {
    let sql: SqlStr = AssertSqlSafe(sql.to_owned()).into_sql_str();
    Ok(cached
        .key(sqlx::query_scalar::<_, String>(sql).bind(argument), CacheFetch::All)
        .await?)
}

/// Something for a mapper to do.
trait FirstColumn {
    fn len_of_first(&self) -> usize;
}

impl FirstColumn for PgRow {
    fn len_of_first(&self) -> usize {
        sqlx::Row::len(self)
    }
}

/// One question of many tenants, whose answer changes from one to the next behind the cache's back: whoever gets another
/// tenant's answer gets a number that is not its own.
async fn tenants(db: &Db, reads: u64, findings: &mut Findings) -> anyhow::Result<()> {
    db.execute("CREATE TABLE whose (n int8); INSERT INTO whose VALUES (0)")
        .await?;
    ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
    // Around the stack, and not watched: no entry is dropped for it.
    let mut beside = db.pool().acquire().await?;
    let tenants: u64 = 50;
    for tenant in 0..tenants {
        let number = i64::try_from(tenant)? + 1000;
        sqlx::query("UPDATE whose SET n = $1")
            .bind(number)
            .execute(&mut *beside)
            .await?;
        let asked = db.tenant(&format!("tenant-{tenant}"))?.cached(TTL);
        asked
            .fetch_one(sqlx::query_scalar::<_, i64>("SELECT n FROM whose"))
            .await?;
    }
    drop(beside);
    let mut asking = JoinSet::new();
    for task in 0..8 {
        let db = db.clone();
        asking.spawn(async move {
            let (mut dice, mut wrong) = (fastrand::Rng::with_seed(task), 0_u64);
            for _ in 0..reads * 10 {
                let tenant = dice.u64(0..tenants);
                let asked = db.tenant(&format!("tenant-{tenant}"))?.cached(TTL);
                let number = *asked
                    .fetch_one(sqlx::query_scalar::<_, i64>("SELECT n FROM whose"))
                    .await?;
                wrong += u64::from(number != i64::try_from(tenant).unwrap_or(-1) + 1000);
            }
            Ok::<_, db_stack::Error>(wrong)
        });
    }
    let mut wrong = 0;
    while let Some(task) = asking.join_next().await {
        wrong += task??;
    }
    let hits = db.cache().stats().total.hits;
    findings.note("reads of one question by 50 tenants", 8 * reads * 10);
    findings.note("answered from memory", hits);
    findings.expect("answers of another tenant", wrong, 0, wrong == 0 && hits > 0);
    Ok(())
}

/// One question of two roles under row-level security.
async fn roles(server: &db_testkit::Postgres, reads: u64, findings: &mut Findings) -> anyhow::Result<()> {
    let mut admin = server.admin().await?;
    sqlx::raw_sql(
        "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE TABLE secrets (owner text, n int8); \
         INSERT INTO secrets VALUES ('alice', 1), ('bob', 2); GRANT SELECT ON secrets TO alice, bob; \
         ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON secrets USING (owner = current_user)",
    )
    .execute(&mut admin)
    .await?;
    let mut wrong = 0_u64;
    let mut roles = Vec::new();
    for (role, own) in [("alice", 1_i64), ("bob", 2)] {
        let db = Db::builder().options(server.options().username(role)).connect().await?;
        db.cache().ready(Duration::from_secs(10)).await;
        roles.push((db, own));
    }
    for _ in 0..reads {
        for (db, own) in &roles {
            let seen = db
                .cached(TTL)
                .fetch_all(sqlx::query_scalar::<_, i64>("SELECT n FROM secrets"))
                .await?;
            wrong += u64::from(*seen != [*own]);
        }
    }
    let hits: u64 = roles.iter().map(|(db, _)| db.cache().stats().total.hits).sum();
    findings.note("reads by two roles under row-level security", 2 * reads);
    findings.note("answered from memory to roles", hits);
    findings.expect("answers of another role", wrong, 0, wrong == 0 && hits > 0);
    Ok(())
}
