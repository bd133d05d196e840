//! Tenants: two hundred of them on twenty connections, none of whom reaches another's data or slows the others.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, config::Tenancy};
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, Connection, postgres::PgConnectOptions};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{Verdict, findings::Findings, rig};

const TENANTS: u32 = 200;
const BUDGET: u32 = 20;
/// Everything passes, so that nothing but quoting keeps ids from the SQL.
const ANYTHING: &str = "(?s).*";
const ROWS: &str = "SELECT tenant FROM note";

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    println!("{TENANTS} tenants on {BUDGET} connections");
    let server = rig::server().await?;
    prepare(&server).await?;
    let mut findings = Findings::new();
    let span = Duration::from_secs(if quick { 3 } else { 15 });
    let databases = if quick { 40 } else { TENANTS };
    prepare_databases(&server, databases).await?;
    for (mode, name, tenants) in [
        (Tenancy::Row, "row", TENANTS),
        (Tenancy::Schema, "schema", TENANTS),
        (Tenancy::Database, "database", databases),
    ] {
        let db = database(&server, mode, None).await?;
        let served = everybody(&db, tenants, span).await?;
        let least = served.values().copied().min().unwrap_or_default();
        findings.expect(
            &format!("{name}: tenants served"),
            served.values().filter(|count| **count > 0).count(),
            tenants,
            least > 0,
        );
        findings.note(&format!("{name}: answers, least and most of a tenant"), {
            format!("{least}..{}", served.values().copied().max().unwrap_or_default())
        });
        let open = db.stats().size;
        findings.expect(&format!("{name}: connections"), open, BUDGET, open <= BUDGET);
        db.close().await;
        // Each that is let in dials: the server says whether there is such a database.
        let full = if mode == Tenancy::Database { 4_000 } else { 20_000 };
        let tries = fuzz(&server, mode, if quick { 400 } else { full }).await?;
        findings.expect(
            &format!("{name}: fuzzed ids that saw another's rows"),
            tries.seen,
            "0",
            tries.seen == 0,
        );
        findings.note(
            &format!("{name}: fuzzed ids let in, refused"),
            format!("{}, {}", tries.in_, tries.refused),
        );
    }
    neighbours(&server, span, &mut findings).await?;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM public.note")
        .fetch_one(&mut server.admin().await?)
        .await?;
    findings.expect("rows at the end", left, TENANTS, left == i64::from(TENANTS));
    Ok(findings.verdict())
}

fn id(number: u32) -> String {
    format!("t{number:03}")
}

/// A table under row-level security, and a schema with a table of the same name for each tenant.
async fn prepare(server: &Postgres) -> anyhow::Result<()> {
    let mut admin = server.admin().await?;
    sqlx::raw_sql(
        "CREATE ROLE app LOGIN; CREATE TABLE note (tenant text); ALTER TABLE note ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON note USING (tenant = current_setting('app.tenant')); GRANT SELECT ON note TO app",
    )
    .execute(&mut admin)
    .await?;
    for number in 0..TENANTS {
        let id = id(number);
        let sql = format!(
            "INSERT INTO note VALUES ('{id}'); CREATE SCHEMA tenant_{id} AUTHORIZATION app; \
             CREATE TABLE tenant_{id}.note (tenant) AS VALUES ('{id}'); GRANT SELECT ON tenant_{id}.note TO app"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    }
    Ok(())
}

/// A database for each tenant, with a view of the same name.
async fn prepare_databases(server: &Postgres, count: u32) -> anyhow::Result<()> {
    let mut admin = server.admin().await?;
    sqlx::raw_sql("CREATE DATABASE pattern").execute(&mut admin).await?;
    let options = PgConnectOptions::from_str(&server.url())?.database("pattern");
    let mut pattern = sqlx::PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(
        "CREATE VIEW note AS SELECT replace(current_database()::text, 'tenant_', '') AS tenant; \
         GRANT SELECT ON note TO app",
    )
    .execute(&mut pattern)
    .await?;
    pattern.close().await?;
    for number in 0..count {
        let sql = format!("CREATE DATABASE tenant_{} TEMPLATE pattern", id(number));
        // The session that made the pattern may not have gone yet.
        let mut tries = 0;
        while let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut admin).await {
            tries += 1;
            ensure!(tries < 50, "{error}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn database(server: &Postgres, mode: Tenancy, pattern: Option<&str>) -> anyhow::Result<Db> {
    let options = PgConnectOptions::from_str(&server.url())?.username("app");
    let db = Db::builder()
        .options(options)
        .max_connections(BUDGET)
        .configure(|config| {
            config.tenants.mode = mode;
            if mode == Tenancy::Database {
                // Each turn opens a connection, which takes a busy machine some time.
                config.pool.acquire_timeout = Duration::from_secs(20);
            }
            // The table of the other mode must not be found behind a schema.
            config.tenants.shared_schemas = String::new();
            if let Some(pattern) = pattern {
                config.tenants.pattern = pattern.to_owned();
            }
        });
    db.connect().await.context("Db does not connect")
}

/// All tenants at once for a while, each of which must see its own row alone; answers by tenant.
async fn everybody(db: &Db, tenants: u32, span: Duration) -> anyhow::Result<BTreeMap<u32, u32>> {
    let end = Instant::now() + span;
    let mut tasks = JoinSet::new();
    for number in 0..tenants {
        let db = db.tenant(&id(number))?;
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                let rows: Vec<String> = sqlx::query_scalar(ROWS).fetch_all(&db).await?;
                ensure!(rows == [id(number)], "tenant {} saw {rows:?}", id(number));
                let mut tx = db.begin().await?;
                let rows: Vec<String> = sqlx::query_scalar(ROWS).fetch_all(&mut *tx).await?;
                tx.commit().await?;
                ensure!(
                    rows == [id(number)],
                    "in a transaction tenant {} saw {rows:?}",
                    id(number)
                );
                count += 1;
            }
            Ok((number, count))
        });
    }
    let mut served = BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        let (number, count) = ended??;
        served.insert(number, count);
    }
    Ok(served)
}

#[derive(Default)]
struct Tries {
    in_: u32,
    refused: u32,
    seen: u32,
}

/// Ids made to break out, with a pattern that lets everything in.
async fn fuzz(server: &Postgres, mode: Tenancy, count: u32) -> anyhow::Result<Tries> {
    let db = database(server, mode, Some(ANYTHING)).await?;
    let mut random = fastrand::Rng::with_seed(6);
    let mut tries = Tries::default();
    for _ in 0..count {
        let id = hostile(&mut random);
        let Ok(tenant) = db.tenant(&id) else {
            tries.refused += 1;
            continue;
        };
        tries.in_ += 1;
        // No such schema is an error, no such tenant no row; anything else was not its own.
        let rows: Vec<String> = sqlx::query_scalar(ROWS).fetch_all(&tenant).await.unwrap_or_default();
        tries.seen += u32::from(rows.iter().any(|row| *row != id));
    }
    db.close().await;
    Ok(tries)
}

fn hostile(random: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 22] = [
        "t001",
        "t002",
        "'",
        "\"",
        "''",
        "\\",
        "\\'",
        "\0",
        ";",
        "--",
        "/*",
        "$$",
        "\n",
        "\u{202e}",
        "т001",
        "ｔ001",
        "t00１",
        ", tenant_t003",
        "' OR ''='",
        "\", public, \"",
        "'); SELECT set_config('app.tenant','t004',false); --",
        "%",
    ];
    if random.u8(0..50) == 0 {
        return "t001".repeat(16 * 1024);
    }
    (0..random.usize(1..5))
        .map(|_| PIECES[random.usize(..PIECES.len())])
        .collect()
}

/// One tenant that wants everything, beside one that wants little.
async fn neighbours(server: &Postgres, span: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let db = database(server, Tenancy::Row, None).await?;
    let quiet = db.tenant(&id(1))?;
    let alone = worst(&quiet, span / 2).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicU64::new(0));
    let mut crowd = JoinSet::new();
    for _ in 0..10 * BUDGET {
        let (loud, stop, refused) = (db.tenant(&id(0))?, stop.clone(), refused.clone());
        crowd.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Refused or shed is what it gets for it.
                let answer = sqlx::query("SELECT pg_sleep(0.05)").execute(&loud).await;
                refused.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
            }
        });
    }
    sleep(Duration::from_millis(500)).await;
    let beside = worst(&quiet, span / 2).await?;
    let held = db.stats().in_use;
    stop.store(true, Ordering::Relaxed);
    crowd.join_all().await;
    db.close().await;
    findings.note("refusals of the loud one", refused.load(Ordering::Relaxed));
    findings.note("a quiet tenant's p95 alone", format!("{alone:.1?}"));
    findings.note("beside one with 200 callers of 50 ms", format!("{beside:.1?}"));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    findings.expect(
        "a quiet tenant's p95 beside a loud one, times that alone",
        format!("{ratio:.2}"),
        "at most 2",
        ratio <= 2.0,
    );
    findings.expect("leases in use beside it", held, "at most 12 of 20", held <= 12);
    Ok(())
}

async fn worst(db: &Db, span: Duration) -> anyhow::Result<Duration> {
    let end = Instant::now() + span;
    let mut took = Vec::new();
    while Instant::now() < end {
        let since = Instant::now();
        sqlx::query("SELECT pg_sleep(0.01)").execute(db).await?;
        took.push(since.elapsed());
    }
    took.sort();
    Ok(took[took.len() * 95 / 100])
}
