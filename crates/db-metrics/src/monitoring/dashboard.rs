//! A Grafana dashboard: every panel that the report asks for, and one for each layer.

use super::Words;
use crate::registry::{
    Id,
    Label::{self, Class, ErrorType, Node, Operation, Outcome, Part, Reason, State, Status, Table},
    NameSet, Names,
};
use serde_json::{Value, json};

/// One panel: title, unit, and its lines with their legends.
struct Panel {
    title: &'static str,
    unit: &'static str,
    lines: Vec<(String, String)>,
}

pub(crate) fn dashboard(names: &Names) -> String {
    let mut out = Vec::new();
    let mut y = 0;
    for (row, panels) in rows(&Words(names)) {
        out.push(json!({
            "type": "row", "title": row, "collapsed": false, "id": out.len() + 1, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}
        }));
        y += 1;
        for (i, panel) in panels.iter().enumerate() {
            let x = 8 * (i % 3);
            if i > 0 && x == 0 {
                y += 8;
            }
            out.push(drawn(panel, out.len() + 1, x, y));
        }
        y += 8;
    }
    let (uid, title) = match names.set {
        NameSet::Report => ("db-stack", "db-stack"),
        NameSet::OpenTelemetry => ("db-stack-otel", "db-stack (OpenTelemetry names)"),
    };
    let board = json!({
        "title": title,
        "uid": uid,
        "schemaVersion": 39,
        "editable": true,
        "refresh": "10s",
        "tags": ["db-stack", "postgresql"],
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{
            "name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0
        }]},
        "annotations": {"list": []},
        "panels": out,
    });
    let mut text = serde_json::to_string_pretty(&board).expect("made of strings and numbers");
    text.push('\n');
    text
}

fn drawn(panel: &Panel, id: usize, x: usize, y: usize) -> Value {
    let source = json!({"type": "prometheus", "uid": "${source}"});
    let targets: Vec<_> = panel
        .lines
        .iter()
        .enumerate()
        .map(|(i, (expr, legend))| {
            json!({
                "refId": char::from(b'A' + i as u8).to_string(),
                "expr": expr,
                "legendFormat": legend,
                "datasource": source,
            })
        })
        .collect();
    json!({
        "id": id,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 8, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets,
    })
}

fn rows(w: &Words<'_>) -> Vec<(&'static str, Vec<Panel>)> {
    let by = |id: Id, label: Label, legend: bool| {
        let name = w.label(label);
        let expr = format!("sum by ({name}) (rate({}[5m]))", w.of(id));
        (
            expr,
            if legend {
                format!("{{{{{name}}}}}")
            } else {
                String::new()
            },
        )
    };
    let one = |title, unit, expr: String, legend: &str| Panel {
        title,
        unit,
        lines: vec![(expr, legend.to_owned())],
    };
    let each = |title, unit, id, label| Panel {
        title,
        unit,
        lines: vec![by(id, label, true)],
    };
    let gauge = |title, unit, id: Id, label: Label| {
        let name = w.label(label);
        one(
            title,
            unit,
            format!("sum by ({name}) ({})", w.of(id)),
            &format!("{{{{{name}}}}}"),
        )
    };
    let quantiles = |title, id| Panel {
        title,
        unit: "s",
        lines: [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]
            .map(|(q, legend)| (w.quantile(q, id, &[]), legend.to_owned()))
            .into(),
    };
    let queries = w.of(Id::Queries);
    let failed = w.with(Id::Queries, &[(Status, "error")]);
    let part = w.label(Part);
    let share = format!(
        "sum by ({part}) (rate({0}[5m])) / ignoring({part}) group_left sum(rate({0}[5m]))",
        w.part(Id::TimeSpent, "sum")
    );
    vec![
        (
            "Calls",
            vec![
                each("Calls by status", "ops", Id::Queries, Status),
                quantiles("Latency", Id::QueryDuration),
                one(
                    "Query failure rate",
                    "percentunit",
                    format!("sum(rate({failed}[5m])) / sum(rate({queries}[5m]))"),
                    "failed",
                ),
                each("Calls by operation", "ops", Id::Queries, Operation),
                each("Errors", "ops", Id::Errors, ErrorType),
                Panel {
                    title: "Where the time goes",
                    unit: "percentunit",
                    lines: vec![(share, format!("{{{{{part}}}}}"))],
                },
                Panel {
                    title: "p99 by class",
                    unit: "s",
                    lines: vec![(
                        w.quantile(0.99, Id::ClassDuration, &[Class]),
                        format!("{{{{{}}}}}", w.label(Class)),
                    )],
                },
                each("Slow queries per second", "ops", Id::SlowQueries, Operation),
                each("Calls by table", "ops", Id::TableQueries, Table),
            ],
        ),
        (
            "Pool",
            vec![
                gauge("Connections", "short", Id::PoolConnections, State),
                Panel {
                    title: "Pool utilization",
                    unit: "percentunit",
                    lines: vec![(
                        format!("sum({}) / sum({})", w.used(), w.of(Id::PoolMax)),
                        "in use".into(),
                    )],
                },
                quantiles("Connection wait time", Id::ConnectionWait),
                one(
                    "Callers that wait",
                    "short",
                    format!("sum({})", w.of(Id::PoolWaiting)),
                    "waiting",
                ),
                one("Pool exhaustion events", "ops", w.rate(Id::PoolExhausted), "exhausted"),
                quantiles("Connections are kept for", Id::ConnectionUse),
                each("Connections closed", "ops", Id::ConnectionsClosed, Reason),
                quantiles("Opening a connection", Id::ConnectionCreate),
                each("Connecting fails", "ops", Id::ConnectFailures, Reason),
                each("No connection for a caller", "ops", Id::AcquireFailures, Reason),
                each("Quarantine", "ops", Id::Quarantined, Outcome),
                gauge("Connections aside", "short", Id::PoolAside, State),
                Panel {
                    title: "Connections of the server",
                    unit: "short",
                    lines: vec![(
                        format!("max by ({0}) ({1})", w.label(State), w.of(Id::ServerConnections)),
                        format!("{{{{{}}}}}", w.label(State)),
                    )],
                },
                each("Prepared statements", "ops", Id::PreparedStatements, Outcome),
                one(
                    "Statements prepared again and again",
                    "ops",
                    w.rate(Id::StatementThrash),
                    "thrash",
                ),
            ],
        ),
        (
            "Limits and retries",
            vec![
                each("Timeouts by class", "ops", Id::Timeouts, Class),
                each("Near their limit", "ops", Id::NearLimit, Class),
                each("Over the alert threshold", "ops", Id::OverAlert, Class),
                each("Retries by cause", "ops", Id::Retries, Reason),
                each("Retries given up", "ops", Id::RetriesGivenUp, Reason),
                one(
                    "Retry budget",
                    "short",
                    format!("sum({})", w.of(Id::RetryBudget)),
                    "left",
                ),
                each("Transactions", "ops", Id::Transactions, Outcome),
                each("What observing layers would have done", "ops", Id::WouldHave, Reason),
                one(
                    "Statements cancelled on the server",
                    "ops",
                    w.rate(Id::Cancels),
                    "cancelled",
                ),
            ],
        ),
        (
            "Health, leaks, replicas",
            vec![
                gauge("Database availability", "short", Id::Health, Label::Check),
                each("Health check failures", "ops", Id::HealthFailures, Label::Check),
                gauge("Breaker", "short", Id::BreakerState, State),
                each("Breaker changes", "ops", Id::BreakerChanges, State),
                one("Refused by the breaker", "ops", w.rate(Id::BreakerRefused), "refused"),
                one(
                    "Leak suspects",
                    "short",
                    format!("sum({})", w.of(Id::LeakSuspects)),
                    "suspects",
                ),
                each("Leases taken back", "ops", Id::LeasesRevoked, Reason),
                gauge("Replica lag", "s", Id::ReplicaLag, Node),
                each("Reads by node", "ops", Id::ReplicaReads, Node),
            ],
        ),
        (
            "Load and cache",
            vec![
                each("Sent away", "ops", Id::Shed, Label::Priority),
                gauge(
                    "Callers that wait, by priority",
                    "short",
                    Id::PriorityWaiting,
                    Label::Priority,
                ),
                gauge(
                    "Connections in use, by priority",
                    "short",
                    Id::PriorityUsed,
                    Label::Priority,
                ),
                one(
                    "The limit on leases",
                    "short",
                    format!("sum({})", w.of(Id::PoolLimit)),
                    "limit",
                ),
                each("Calls by tenant", "ops", Id::TenantQueries, Label::Tenant),
                each("Answers from memory", "ops", Id::CacheLookups, Outcome),
                one(
                    "Memory of the cache",
                    "bytes",
                    format!("sum({})", w.of(Id::CacheBytes)),
                    "bytes",
                ),
                one(
                    "Answers in memory",
                    "short",
                    format!("sum({})", w.of(Id::CacheEntries)),
                    "answers",
                ),
                each("Answers dropped", "ops", Id::CacheInvalidations, Reason),
            ],
        ),
        (
            "The instruments",
            vec![
                one("Series", "short", format!("sum({})", w.of(Id::Series)), "series"),
                each("Names folded into `other`", "ops", Id::Folded, Reason),
                each("Slow-query log: dropped", "ops", Id::SlowLogDropped, Reason),
            ],
        ),
    ]
}
