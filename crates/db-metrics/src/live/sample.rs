//! One moment, as rates.

use crate::{publish::Sums, registry::Id, tally::Tally};
use serde::Serialize;
use std::time::Duration;

/// Rates are per second, times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    calls: f64,
    failed: f64,
    slow: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    wait_p99: f64,
    used: u32,
    idle: u32,
    aside: u32,
    waiting: u32,
    max: u32,
    retries: f64,
    timeouts: f64,
    exhausted: f64,
    opened: f64,
    shed: f64,
    hits: f64,
    misses: f64,
}

/// Counts and gauges that the page shows by their newest value.
pub(crate) fn shown(id: Id) -> bool {
    !matches!(
        id,
        Id::Queries | Id::Errors | Id::TableQueries | Id::TableErrors | Id::PoolConnections
    )
}

impl Sample {
    /// What happened between two moments.
    pub(crate) fn between(before: &Sums, after: &Sums, span: Duration) -> Self {
        let seconds = span.as_secs_f64().max(1e-3);
        let calls = after.calls.since(&before.calls);
        let wait = after.wait.since(&before.wait);
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        let counted = |id: Id| {
            let sum = |sums: &Sums| -> f64 {
                let of = sums.figures.iter().filter(|((other, _), _)| *other == id);
                of.map(|(_, value)| value).sum()
            };
            (sum(after) - sum(before)).max(0.0) / seconds
        };
        let outcome = |outcome: &str| {
            let of = |sums: &Sums| {
                let key = (Id::CacheLookups, vec![outcome.to_owned()]);
                sums.figures.get(&key).copied().unwrap_or_default()
            };
            (of(after) - of(before)).max(0.0) / seconds
        };
        let ms = |tally: &Tally, q| tally.quantile(q).as_secs_f64() * 1000.0;
        Self {
            calls: calls.count() as f64 / seconds,
            failed: rate(after.failed, before.failed),
            slow: rate(after.slow, before.slow),
            p50: ms(&calls, 0.5),
            p95: ms(&calls, 0.95),
            p99: ms(&calls, 0.99),
            wait_p99: ms(&wait, 0.99),
            used: after.pool.used,
            idle: after.pool.idle,
            aside: after.pool.opening + after.pool.quarantined + after.pool.lent,
            waiting: after.pool.waiting,
            max: after.pool.max,
            retries: counted(Id::Retries),
            timeouts: counted(Id::Timeouts),
            exhausted: counted(Id::PoolExhausted),
            opened: counted(Id::ConnectionsClosed),
            shed: counted(Id::Shed),
            hits: outcome("hit"),
            misses: outcome("miss"),
        }
    }
}
