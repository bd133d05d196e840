//! Through a transaction pooler: 50 clients over 2 server connections, and no row is somebody else's.

use std::time::Duration;

use anyhow::Context;
use db_stack::{Db, Error, NeedsSession};
use db_testkit::{PgBouncer, PgBouncerProgram, Postgres};
use futures::future::join_all;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use crate::prove::{Verdict, findings::Findings};

const CLIENTS: u32 = 50;
const SERVERS: u32 = 2;
/// Different texts; each client prepares them in another order.
const TEXTS: i64 = 23;

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let span = Duration::from_secs(if quick { 4 } else { 60 });
    let mut findings = Findings::new();
    let programs = PgBouncer::programs();
    let old = programs.iter().find(|program| program.version < (1, 21));
    let new = programs.iter().rfind(|program| program.version >= (1, 21));
    for (what, program) in [("PgBouncer before 1.21", old), ("PgBouncer 1.21 or newer", new)] {
        match program {
            Some(program) => through(program, span, &mut findings).await?,
            None => findings.skip(what, "not installed"),
        }
    }
    let tried = usize::from(old.is_some()) + usize::from(new.is_some());
    findings.expect("versions tried", tried, "2, those skipped aside", tried > 0);
    Ok(findings.verdict())
}

#[derive(Default)]
struct Tally {
    answers: u64,
    wrong: u64,
    errors: u64,
    timed_out: u64,
    refused: u64,
    first: Option<String>,
}

impl Tally {
    fn error(&mut self, error: impl ToString) {
        self.errors += 1;
        self.first.get_or_insert_with(|| error.to_string());
    }
}

async fn through(program: &PgBouncerProgram, span: Duration, findings: &mut Findings) -> anyhow::Result<()> {
    let (major, minor) = program.version;
    let named = program.version >= (1, 21);
    let tag = |what: &str| format!("{major}.{minor}: {what}");
    let server = Postgres::builder().max_connections(50).start().await?;
    let mut bouncer = PgBouncer::builder(program, server.addr()).setting("default_pool_size", SERVERS);
    if named {
        // Fewer than there are texts, so that the pooler's own eviction is at work too.
        bouncer = bouncer.setting("max_prepared_statements", 10);
    }
    let bouncer = bouncer.start().await?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql("CREATE TABLE ledger (client int8, n int8); CREATE INDEX ON ledger (client)")
        .execute(&mut admin)
        .await?;
    let url = bouncer.url_for("postgres");
    let db = Db::builder()
        .url(&url)
        .max_connections(CLIENTS)
        .configure(|config| config.pool.min_connections = CLIENTS);
    let db = db.connect().await.context("Db does not connect through the pooler")?;
    let until = Instant::now() + span;
    let clients = (0..i64::from(CLIENTS)).map(|client| tokio::spawn(one(db.clone(), client, until)));
    let mut all = Tally::default();
    let mut booked = 0;
    for client in join_all(clients).await {
        let (tally, committed) = client?;
        booked += committed;
        all.answers += tally.answers;
        all.wrong += tally.wrong;
        all.errors += tally.errors;
        all.timed_out += tally.timed_out;
        all.refused += tally.refused;
        all.first = all.first.or(tally.first);
    }
    let servers: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    .fetch_one(&mut admin)
    .await?;
    let ledger: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger")
        .fetch_one(&mut admin)
        .await?;
    let size = db.stats().size;
    findings.note(&tag("connections to the pooler"), size);
    findings.expect(
        &tag("server connections"),
        servers,
        "<= 2",
        servers <= i64::from(SERVERS),
    );
    findings.note(&tag("answers"), all.answers);
    findings.note(&tag("timeouts on the way"), all.timed_out);
    findings.expect(&tag("wrong rows"), all.wrong, 0, all.wrong == 0);
    findings.expect(&tag("errors"), all.errors, 0, all.errors == 0);
    findings.expect(&tag("rows booked"), ledger, booked, ledger == booked);
    findings.expect(
        &tag("session statements refused"),
        all.refused,
        CLIENTS,
        all.refused == u64::from(CLIENTS),
    );
    if let Some(first) = all.first {
        findings.note(&tag("first error"), first);
    }
    let enough = all.answers > u64::from(CLIENTS) * 5;
    findings.expect(&tag("every client was at work"), enough, true, enough);
    db.close().await;
    Ok(())
}

async fn one(db: Db, client: i64, until: Instant) -> (Tally, i64) {
    let mut tally = Tally::default();
    let mut random = fastrand::Rng::with_seed(client.cast_unsigned());
    let mut booked = 0;
    match sqlx::query("SET work_mem = '1MB'")
        .execute(&db)
        .await
        .map_err(Error::from)
    {
        Err(Error::NeedsSession(NeedsSession::Statement)) => tally.refused += 1,
        other => tally.error(format!("SET: {other:?}")),
    }
    while Instant::now() < until {
        let (factor, nonce) = (random.i64(1..=TEXTS), random.i64(0..1_000_000_000));
        match random.u8(0..20) {
            0 => {
                let slow = db.timeout(Duration::from_millis(random.u64(1..4)));
                let sql = "SELECT $1::int8 FROM pg_sleep(0.003)";
                match sqlx::query_scalar::<_, i64>(sql)
                    .bind(nonce)
                    .fetch_one(&slow)
                    .await
                    .map_err(Error::from)
                {
                    Ok(answer) => tally.wrong += u64::from(answer != nonce),
                    Err(Error::Timeout(_) | Error::Acquire(_)) => tally.timed_out += 1,
                    Err(error) => tally.error(error),
                }
            }
            1..=4 => match book(&db, client, nonce).await {
                Ok(right) => {
                    booked += 1;
                    tally.wrong += u64::from(!right);
                }
                Err(error) => tally.error(error),
            },
            _ => {
                let text = format!("SELECT $1::int8 * {factor}, $2::text");
                let query = sqlx::query_as::<_, (i64, String)>(AssertSqlSafe(text));
                match query.bind(nonce).bind(client.to_string()).fetch_one(&db).await {
                    Ok((product, who)) => {
                        tally.answers += 1;
                        tally.wrong += u64::from(product != nonce * factor || who != client.to_string());
                    }
                    Err(error) => tally.error(error),
                }
            }
        }
    }
    (tally, booked)
}

/// One transaction of two statements; whether it read what it wrote.
async fn book(db: &Db, client: i64, nonce: i64) -> Result<bool, Error> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO ledger VALUES ($1, $2)")
        .bind(client)
        .bind(nonce)
        .execute(&mut *tx)
        .await?;
    let last: Option<i64> = sqlx::query_scalar("SELECT n FROM ledger WHERE client = $1 AND n = $2 LIMIT 1")
        .bind(client)
        .bind(nonce)
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(last == Some(nonce))
}
