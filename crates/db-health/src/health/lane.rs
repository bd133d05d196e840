//! The checks that share the connection beside the pool, one after the other, until their time is up.

use super::{
    checks::server::{self, Server},
    config::HealthConfig,
    report::{CheckReport, Finding, show},
    subject::{Reserved, Subject},
};
use crate::breaker::Boxed;
use db_core::Error;
use sqlx::PgConnection;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What the server has left of a check's time when the client still waits for its answer.
const ANSWER: f64 = 0.8;
/// A check gets this part of the report's time, so that one that is blocked leaves some to the others.
const SHARE: u32 = 4;

/// The names, in their order.
pub(crate) const NAMES: [&str; 8] = [
    "connectivity",
    "transaction",
    "tables",
    "replication",
    "transaction_ids",
    "longest_transaction",
    "connections",
    "statements",
];

/// Opens the connection if there is none, and asks the server who it is. A connection that was kept may have died
/// meanwhile, which says nothing about the server: one more is tried.
pub(crate) async fn connect(
    subject: &dyn Subject,
    kept: &mut Option<Reserved>,
    deadline: Instant,
) -> Result<(Server, Finding), Finding> {
    let fresh = kept.is_none();
    match try_once(subject, kept, deadline).await {
        Err(_) if !fresh && Instant::now() < deadline => try_once(subject, kept, deadline).await,
        met => met,
    }
}

async fn try_once(
    subject: &dyn Subject,
    kept: &mut Option<Reserved>,
    deadline: Instant,
) -> Result<(Server, Finding), Finding> {
    let limit = deadline.saturating_duration_since(Instant::now());
    // Half of the time for one that was kept, so that there is some left for a new one.
    let deadline = if kept.is_some() {
        Instant::now() + limit / 2
    } else {
        deadline
    };
    // Taken out: a connection that was left in the middle of something is never asked again.
    let connected = async {
        let mut pg = match kept.take() {
            Some(pg) => pg,
            None => subject.connect(limit).await?,
        };
        let met = server::connectivity(&mut pg, limit.mul_f64(ANSWER)).await?;
        Ok::<_, Error>((pg, met))
    };
    match timeout_at(deadline, connected).await {
        Ok(Ok((pg, met))) => {
            *kept = Some(pg);
            Ok(met)
        }
        Ok(Err(error)) => Err(Finding::unhealthy(error.to_string())),
        Err(_) => Err(Finding::unhealthy(format!(
            "the server gave no answer within {}",
            show(limit)
        ))),
    }
}

/// All of them, in the order of [`NAMES`].
pub(crate) async fn run(
    subject: &dyn Subject,
    kept: &mut Option<Reserved>,
    config: &HealthConfig,
    deadline: Instant,
) -> Vec<CheckReport> {
    let since = Instant::now();
    // A little is kept back, so that everything that is unknown for want of time can be said in time.
    let deadline = since + deadline.saturating_duration_since(since).mul_f64(0.95);
    let met = connect(subject, kept, deadline).await;
    let took = since.elapsed();
    let (server, finding) = match met {
        Ok((server, finding)) => (Some(server), finding),
        Err(finding) => (None, finding),
    };
    let mut reports = vec![CheckReport::new(NAMES[0], finding, took)];
    for name in &NAMES[1..] {
        let since = Instant::now();
        let finding = match server {
            Some(server) => one(subject, kept, name, server, config, deadline).await,
            None => Finding::unknown("no connection"),
        };
        reports.push(CheckReport::new(*name, finding, since.elapsed()));
    }
    reports
}

async fn one(
    subject: &dyn Subject,
    kept: &mut Option<Reserved>,
    name: &str,
    server: Server,
    config: &HealthConfig,
    deadline: Instant,
) -> Finding {
    let now = Instant::now();
    let limit = deadline
        .saturating_duration_since(now)
        .min(config.report_timeout / SHARE);
    if limit.is_zero() {
        return Finding::unknown("no time was left for it");
    }
    let asked = async {
        let mut pg = match kept.take() {
            Some(pg) => pg,
            None => subject.connect(limit).await?,
        };
        let finding = ask(&mut pg, name, server, config, limit.mul_f64(ANSWER)).await?;
        Ok::<_, Error>((pg, finding))
    };
    match timeout_at(now + limit, asked).await {
        Ok(Ok((pg, finding))) => {
            *kept = Some(pg);
            finding
        }
        Ok(Err(Error::Server(error))) => Finding::unknown(error.to_string()),
        Ok(Err(error)) => Finding::unhealthy(error.to_string()),
        Err(_) => Finding::unknown(format!("no answer within {}", show(limit))),
    }
}

fn ask<'a>(
    pg: &'a mut PgConnection,
    name: &str,
    server: Server,
    config: &'a HealthConfig,
    limit: Duration,
) -> Boxed<'a, sqlx::Result<Finding>> {
    match name {
        "transaction" => Box::pin(server::transaction(pg, server, limit)),
        "tables" => Box::pin(server::tables(pg, config, limit)),
        "replication" => Box::pin(server::replication(pg, server, config, limit)),
        "transaction_ids" => Box::pin(server::transaction_ids(pg, config, limit)),
        "longest_transaction" => Box::pin(server::longest_transaction(pg, config, limit)),
        "connections" => Box::pin(server::connections(pg, config, limit)),
        _ => Box::pin(server::statements(pg, limit)),
    }
}
