//! `telemetry-secrets`: a canary goes through everything as argument, literal, password and tenant, and is looked for in
//! all that the stack tells: spans by OTLP, logs, metrics, the live page, the slow-query log, `Debug` and errors.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use db_metrics::otlp;
use db_stack::{Db, QueryClass};
use db_testkit::Postgres;
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::prove::{
    Verdict,
    findings::Findings,
    receiver::{Receiver, attributes, violations},
};

/// Looked for everywhere. As bytes it is also looked for in hexadecimal and decimal, which is how `Debug` shows buffers.
const CANARY: &str = "k9canaryx7";

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let rounds = if quick { 20 } else { 500 };
    let server = Postgres::start().await.context("no throwaway PostgreSQL")?;
    let mut admin = server.admin().await?;
    for statement in [
        format!("CREATE ROLE teller LOGIN SUPERUSER PASSWORD '{CANARY}'"),
        "CREATE TABLE notes (id int PRIMARY KEY, note text)".to_owned(),
        include_str!("../../../../migrations/0010_slow_queries.up.sql").to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut admin)
            .await?;
    }
    let receiver = Receiver::start().await?;
    let logs = Logs::default();
    let (spans, exporter) = otlp::layer(&receiver.endpoint, "proof")?;
    tracing_subscriber::registry()
        .with(spans.with_filter(all_but_the_export()))
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(logs.clone())
                .with_filter(all_but_the_export()),
        )
        .try_init()
        .context("a subscriber is there already")?;

    let mut shown = String::new();
    {
        let url = format!("postgres://teller:{CANARY}@127.0.0.1:{}/postgres", server.port());
        let db = Db::builder().url(&url).max_connections(4).configure(|config| {
            config.metrics.listen = "127.0.0.1:0".to_owned();
            config.tracing.sample = 1.0;
            config.slow_query.threshold = Duration::ZERO;
            config.slow_query.table = true;
        });
        shown.push_str(&format!("{db:?}"));
        let db = db.connect().await?;
        for round in 0..rounds {
            exercise(&db, round, &mut shown).await;
        }
        shown.push_str(&format!("{db:?} {:?} {:?} {:?}", db.config(), db.metrics(), db.stats()));
        sleep(Duration::from_millis(1200)).await;
        shown.push_str(&db.metrics().render());
        for path in ["/metrics", "/live.json?since=0"] {
            let url = db.metrics_url().context("no listener")?;
            shown.push_str(&super::http::get(&url, path).await?);
        }
        db.close().await;
    }
    exporter.shut_down().await;

    let mut findings = Findings::new();
    let spans = receiver.wait_for(1).await;
    let ours: Vec<_> = spans
        .iter()
        .filter(|span| attributes(span).contains_key("db.system.name"))
        .collect();
    let enough = ours.len() >= rounds as usize;
    findings.expect(
        "spans of calls by OTLP",
        ours.len(),
        format!("at least {rounds}"),
        enough,
    );
    let wrong: Vec<_> = ours.iter().flat_map(|span| violations(span)).collect();
    if let Some(first) = wrong.first() {
        println!("      {first}");
    }
    findings.expect("breaches of the conventions in spans", wrong.len(), 0, wrong.is_empty());
    let has_state = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
        attributes(span)
            .get("db.response.status_code")
            .is_some_and(|code| code == "22P02")
    };
    let refused = ours.iter().filter(|span| has_state(span)).count();
    let all = refused == rounds as usize;
    findings.expect("spans with the SQLSTATE of their error", refused, rounds, all);
    let table = rows(&mut admin).await?;
    let written = table.lines().count();
    findings.expect("slow queries in their table", written, "more than 3", written > 3);
    for (place, text) in [
        ("spans", receiver.text()),
        ("logs", logs.text()),
        ("metrics, page, Debug and errors", shown),
        ("the table of slow queries", table),
    ] {
        let found = canaries()
            .iter()
            .filter(|canary| text.contains(canary.as_str()))
            .count();
        findings.expect(
            &format!("canaries in {place}"),
            found,
            format!("0 in {} bytes", text.len()),
            found == 0,
        );
    }
    let _ = admin.close().await;
    Ok(findings.verdict())
}

/// Everything at every level, but for what the export says of itself: each batch would make the next one.
fn all_but_the_export() -> Targets {
    let export = [
        "h2",
        "hyper",
        "hyper_util",
        "tonic",
        "tower",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry_otlp",
    ];
    export
        .into_iter()
        .fold(Targets::new().with_default(LevelFilter::TRACE), |targets, target| {
            targets.with_target(target, LevelFilter::OFF)
        })
}

/// The canary as text, and as its bytes in the ways in which buffers are shown.
fn canaries() -> [String; 4] {
    let bytes = CANARY.as_bytes();
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [CANARY.to_owned(), hex.to_uppercase(), hex, decimal.join(", ")]
}

/// One of each that can carry something secret. What errors say is part of what is searched; the server itself quotes
/// values in its message, so of its errors only what the stack adds is taken.
async fn exercise(db: &Db, round: u32, shown: &mut String) {
    let id = i32::try_from(round).unwrap_or(i32::MAX);
    let insert = sqlx::query("INSERT INTO notes VALUES ($1, $2)").bind(id).bind(CANARY);
    let _ = insert.execute(db).await;
    let literal = format!("SELECT * FROM notes WHERE note = '{CANARY}' AND id <> {round}");
    let _ = sqlx::query(sqlx::AssertSqlSafe(literal)).fetch_all(db).await;
    let failing = format!("SELECT '{CANARY}'::int");
    let _ = sqlx::query(sqlx::AssertSqlSafe(failing)).fetch_all(db).await;
    let slow = sqlx::query("SELECT pg_sleep(0.3), $1::text").bind(CANARY);
    let short = db.class(QueryClass::Instant).timeout(Duration::from_millis(20));
    if round.is_multiple_of(5)
        && let Err(error) = slow.execute(&short).await
    {
        shown.push_str(&format!("{error} {error:?}"));
    }
    if let Ok(mut tx) = db.begin().await {
        let update = sqlx::query("UPDATE notes SET note = $1 WHERE id = $2")
            .bind(CANARY)
            .bind(id);
        let _ = update.execute(&mut *tx).await;
        shown.push_str(&format!("{tx:?}"));
        let _ = tx.commit().await;
    }
}

/// Everything in the table of slow queries.
async fn rows(admin: &mut PgConnection) -> anyhow::Result<String> {
    let rows: Vec<String> = sqlx::query_scalar("SELECT s::text FROM slow_queries AS s")
        .fetch_all(admin)
        .await?;
    Ok(rows.join("\n"))
}

/// What was logged.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
