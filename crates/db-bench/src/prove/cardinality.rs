//! `cardinality`: whatever names come, series and memory stay within their bounds, and what is counted adds up. With it
//! the cost of watching, on and off.

mod cost;

use std::{fs, hint::black_box, sync::Arc};

use anyhow::Context;
use db_core::{Call, Error, Layer, Observer, Observers, Rows, Service, Statement, service_fn};
use db_metrics::{
    Id, Meter, MetricsConfig, ObserveLayer, SlowLog, SlowQueryConfig, SpanEvents, SpanTarget, TracingConfig,
    registry::Names,
};
use sqlx::{AssertSqlSafe, postgres::PgConnectOptions};

use crate::prove::{Verdict, findings::Findings};

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mut findings = Findings::new();
    names(quick, &mut findings).await?;
    cost::of_a_call(quick, &mut findings)?;
    cost::in_throughput(quick, &mut findings).await?;
    Ok(findings.verdict())
}

/// Everything on, as the facade sets it up.
fn watched() -> anyhow::Result<(Meter, ObserveLayer, Observers)> {
    let observers = Observers::default();
    let meter = Meter::new(MetricsConfig::default(), &observers)?;
    let nowhere = Arc::new(PgConnectOptions::new_without_pgpass);
    let log = SlowLog::new(SlowQueryConfig::default(), nowhere);
    observers.add(log.observer());
    log.show_on(&meter);
    observers.add(Arc::new(SpanEvents) as Arc<dyn Observer>);
    let layer = ObserveLayer::new(observers.clone(), TracingConfig::default(), SpanTarget::default());
    Ok((meter, layer, observers))
}

async fn names(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let (statements, tables) = if quick { (20_000, 2_000) } else { (100_000, 10_000) };
    println!("{statements} distinct statements over {tables} tables, a scrape now and then");
    let (meter, layer, _) = watched()?;
    let config = meter.config();
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
