//! `cardinality`: whatever names come, series and memory stay within their bounds, and what is counted adds up. With it
//! the cost of watching, on and off.

use std::{fs, hint::black_box, sync::Arc, time::Duration};

use anyhow::Context;
use db_core::{Call, Error, Layer, Observer, Observers, Rows, Service, Statement, service_fn};
use db_metrics::{
    Id, Meter, MetricsConfig, ObserveLayer, SlowLog, SlowQueryConfig, SpanEvents, SpanTarget, TracingConfig,
    registry::Names,
};
use sqlx::{AssertSqlSafe, postgres::PgConnectOptions};
use tokio::time::Instant;

use crate::prove::{Verdict, findings::Findings};

/// What the issue of this part promises.
const MOST_ON: Duration = Duration::from_nanos(400);
const MOST_OFF: Duration = Duration::from_nanos(20);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mut findings = Findings::new();
    names(quick, &mut findings).await?;
    cost(quick, &mut findings).await?;
    Ok(findings.verdict())
}

/// Everything on, as the facade sets it up.
fn watched() -> anyhow::Result<(Meter, ObserveLayer, MetricsConfig)> {
    let (observers, config) = (Observers::default(), MetricsConfig::default());
    let meter = Meter::new(config.clone(), &observers)?;
    let nowhere = Arc::new(PgConnectOptions::new_without_pgpass);
    let log = SlowLog::new(SlowQueryConfig::default(), nowhere);
    observers.add(log.observer());
    log.show_on(&meter);
    observers.add(Arc::new(SpanEvents) as Arc<dyn Observer>);
    let layer = ObserveLayer::new(observers, TracingConfig::default(), SpanTarget::default());
    Ok((meter, layer, config))
}

async fn names(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let (statements, tables) = if quick { (20_000, 2_000) } else { (100_000, 10_000) };
    println!("{statements} distinct statements over {tables} tables, a scrape now and then");
    let (meter, layer, config) = watched()?;
    let service = layer.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    let (mut early, call) = (None, Call::here());
    for number in 0..statements {
        let text = format!("SELECT c{number} FROM t{} WHERE id = $1", number % tables);
        service
            .call(&call, &Statement::all(AssertSqlSafe(text))?)
            .await
            .context("nothing can fail here")?;
        if number % 5_000 == 0 {
            black_box(meter.render());
        }
        if number == statements / 4 {
            early = Some(resident()?);
        }
    }
    let late = resident()?;
    let text = meter.render();
    let (series, remembered) = meter.size();
    // A table has three series for each of its verbs, and `other` is one more table.
    let bound = 3 * (config.max_tables + 1) + 400;
    let name = format!("{}{{", Names::default().prometheus(Id::TableQueries));
    let counted: f64 = text
        .lines()
        .filter(|line| line.starts_with(&name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    let grown = late.saturating_sub(early.context("a quarter was passed")?);
    let lines = text.lines().count();
    findings.expect("series", series, format!("at most {bound}"), series <= bound);
    findings.note("lines of a scrape", lines);
    let most = config.max_statements;
    findings.expect(
        "statements remembered",
        remembered,
        format!("at most {most}"),
        remembered <= most,
    );
    let all = (counted - f64::from(statements)).abs() < 0.5;
    findings.expect("calls counted", counted, statements, all);
    let kept = grown <= 8 * 1024;
    findings.expect("KiB grown over the last three quarters", grown, "at most 8192", kept);
    Ok(())
}

/// Resident memory in KiB.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("no /proc")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.and_then(|figure| figure.parse().ok()).context("no VmRSS")
}

async fn cost(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let bare = service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) });
    let off = ObserveLayer::default().layer(bare);
    let (_meter, layer, _) = watched()?;
    let on = layer.layer(bare);
    let (call, statement) = (
        Call::here(),
        Statement::all("SELECT balance FROM accounts WHERE id = $1")?,
    );
    let (rounds, calls) = if quick { (21, 20_000) } else { (101, 50_000) };
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        times[0].push(each(&bare, &call, &statement, calls).await?);
        times[1].push(each(&off, &call, &statement, calls).await?);
        times[2].push(each(&on, &call, &statement, calls).await?);
    }
    // The quickest round is the one that nobody else disturbed.
    let [bare, off, on] = times.map(|times| times.into_iter().fold(f64::INFINITY, f64::min));
    let (off, on) = (off - bare, on - bare);
    // A quick run shares its machine: it tells a lock on the path or an allocation, not the last nanosecond.
    let slack = if quick { 3.0 } else { 1.0 };
    let most = |limit: Duration| limit.as_nanos() as f64 * slack;
    let asked = |limit| format!("{limit:?}, of this run {:.0} ns", most(limit));
    findings.expect(
        "watching a call, ns",
        format!("{on:.0}"),
        asked(MOST_ON),
        on <= most(MOST_ON),
    );
    findings.expect(
        "switched off, ns",
        format!("{off:.1}"),
        asked(MOST_OFF),
        off <= most(MOST_OFF),
    );
    Ok(())
}

/// Nanoseconds for each call.
async fn each<S>(service: &S, call: &Call, statement: &Statement, calls: u32) -> anyhow::Result<f64>
where
    S: Service<Statement>,
    Statement: db_core::Operation<Output = Rows>,
{
    let since = Instant::now();
    for _ in 0..calls {
        black_box(service.call(call, black_box(statement)).await?);
    }
    Ok(since.elapsed().as_nanos() as f64 / f64::from(calls))
}
