//! Recording rules: what dashboards ask for again and again.

use super::Words;
use crate::registry::{Id, Label, Names};

/// One recording rule.
#[derive(Clone, Debug)]
pub struct RecordingRule {
    /// The name of what it records.
    pub record: String,
    /// Its expression.
    pub expr: String,
}

/// All recording rules in one set of names.
pub fn recording_rules(names: &Names) -> Vec<RecordingRule> {
    let w = Words(names);
    let prefix = match names.set {
        crate::registry::NameSet::Report => names.namespace.clone(),
        crate::registry::NameSet::OpenTelemetry => "db_stack".to_owned(),
    };
    let rule = |name: &str, expr: String| RecordingRule {
        record: format!("{prefix}:{name}"),
        expr,
    };
    let status = w.label(Label::Status);
    let class = w.label(Label::Class);
    let queries = w.of(Id::Queries);
    let failed = w.with(Id::Queries, &[(Label::Status, "error")]);
    vec![
        rule("queries:rate5m", format!("sum by ({status}) (rate({queries}[5m]))")),
        rule(
            "failures:ratio5m",
            format!("sum(rate({failed}[5m])) / (sum(rate({queries}[5m])) > 0)"),
        ),
        rule("query_seconds:p50_5m", w.quantile(0.5, Id::QueryDuration, &[])),
        rule("query_seconds:p95_5m", w.quantile(0.95, Id::QueryDuration, &[])),
        rule("query_seconds:p99_5m", w.quantile(0.99, Id::QueryDuration, &[])),
        rule(
            "class_seconds:p99_5m",
            w.quantile(0.99, Id::ClassDuration, &[Label::Class]),
        ),
        rule(
            "over_alert:ratio5m",
            format!(
                "sum by ({class}) (rate({}[5m])) / (sum by ({class}) (rate({}[5m])) > 0)",
                w.of(Id::OverAlert),
                w.part(Id::ClassDuration, "count")
            ),
        ),
        rule(
            "connection_wait_seconds:p99_5m",
            w.quantile(0.99, Id::ConnectionWait, &[]),
        ),
        rule(
            "pool:utilization",
            format!("sum({}) / sum({})", w.used(), w.of(Id::PoolMax)),
        ),
        rule("slow_queries:rate5m", w.rate(Id::SlowQueries)),
        rule("retries:rate5m", w.rate(Id::Retries)),
    ]
}
