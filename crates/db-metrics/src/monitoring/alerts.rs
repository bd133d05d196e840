//! The alerts: the report's, made able to fire, and those that its pool, breaker, cache and replicas call for.

mod layers;

use super::Words;
use crate::registry::{
    Id,
    Label::{self, Check, Class, Node, Operation, Outcome, Reason, State, Status},
    Names,
};

/// Where the runbook is.
pub(crate) const RUNBOOK: &str = "docs/monitoring/runbook.md";

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody gets up.
    Critical,
    /// Somebody looks today.
    Warning,
}

impl Severity {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// One alert.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// How urgent it is.
    pub severity: Severity,
    /// When it is true.
    pub expr: String,
    /// For how long that must hold, as Prometheus writes it.
    pub lasting: &'static str,
    /// One line.
    pub summary: String,
    /// What it means; `{value}` is the expression's value.
    pub description: String,
    /// How the value is shown: a function of Prometheus's templates.
    pub format: &'static str,
    /// What to do, for the runbook.
    pub action: &'static str,
    /// The test that drives it to fire and to resolve.
    pub drive: Drive,
}

/// Series that make an alert fire, and when.
#[derive(Clone, Debug, Default)]
pub struct Drive {
    /// Series with their values every 30 s, in promtool's notation.
    pub series: Vec<(String, String)>,
    /// When it does not fire yet.
    pub silent: &'static str,
    /// When it fires.
    pub fires: &'static str,
    /// When it has resolved.
    pub resolved: &'static str,
    /// Its labels then.
    pub labels: Vec<(String, String)>,
    /// Its value then, as shown.
    pub value: String,
}

impl Alert {
    pub(crate) fn value_template(&self) -> String {
        format!("{{{{ $value | {} }}}}", self.format)
    }
}

/// A counter that stands still, grows by `step` twice a minute for half an hour, and stands still again.
fn burst(step: u32) -> String {
    format!("0x20 0+{step}x60 {}x80", 60 * step)
}

/// A gauge that is `low`, then `high` for half an hour, then `low` again.
fn bump(low: &str, high: &str) -> String {
    format!("{low}x20 {high}x60 {low}x80")
}

/// Before the burst, well inside it, long after it.
fn drive(series: Vec<(String, String)>, value: &str) -> Drive {
    Drive {
        series,
        silent: "9m",
        fires: "35m",
        resolved: "75m",
        labels: Vec::new(),
        value: value.to_owned(),
    }
}

/// All alerts in one set of names.
pub fn alerts(names: &Names) -> Vec<Alert> {
    let w = Words(names);
    let mut all = pool(&w);
    all.extend(calls(&w));
    all.extend(layers::layers(&w));
    all.extend(load(&w));
    all.extend(own(&w));
    all
}

fn pool(w: &Words<'_>) -> Vec<Alert> {
    let (max, used) = (w.of(Id::PoolMax), w.used());
    let exhausted = w.of(Id::PoolExhausted);
    let wait = w.part(Id::ConnectionWait, "bucket");
    let connect = w.of(Id::ConnectFailures);
    let connect_down = w.with(Id::ConnectFailures, &[(Reason, "down")]);
    let thrash = w.of(Id::StatementThrash);
    vec![
        Alert {
            name: "DatabasePoolExhausted",
            severity: Severity::Critical,
            expr: format!("sum(increase({exhausted}[5m])) > 0"),
            lasting: "1m",
            summary: "Callers get no database connection".into(),
            description: "{value} callers in 5 minutes found every connection in use until their limit.".into(),
            format: "printf \"%.0f\"",
            action: "Look who holds the connections (the errors name them, and so does the live page): a slow statement, \
                     a transaction left open, a leak. Raise `pool.max_connections` only when the server has room.",
            drive: drive(vec![(exhausted.clone(), burst(1))], "10"),
        },
        Alert {
            name: "DatabasePoolNearlyExhausted",
            severity: Severity::Warning,
            expr: format!("sum({max}) - sum({used}) < 2"),
            lasting: "1m",
            summary: "Database connection pool nearly exhausted".into(),
            description: "Only {value} connections can still be had.".into(),
            format: "printf \"%.0f\"",
            action: "As for DatabasePoolExhausted; there is still time.",
            drive: drive(vec![(max.clone(), "10x160".into()), (used, bump("2", "9"))], "1"),
        },
        Alert {
            name: "DatabaseQueueing",
            severity: Severity::Warning,
            expr: format!("{} > 0.1", w.quantile(0.99, Id::ConnectionWait, &[])),
            lasting: "5m",
            summary: "Callers wait for database connections".into(),
            description: "The slowest hundredth waits {value} s and more.".into(),
            format: "printf \"%.2f\"",
            action: "More work arrives than the pool can do: compare the time on the server with the time in the queue, \
                     then mend the statement that takes most, or add connections.",
            drive: drive(
                vec![
                    (format!("{wait}{{le=\"0.1\"}}"), "0x160".into()),
                    (format!("{wait}{{le=\"0.25\"}}"), burst(100)),
                    (format!("{wait}{{le=\"+Inf\"}}"), burst(100)),
                ],
                "0.25",
            ),
        },
        Alert {
            name: "DatabaseConnectFailures",
            severity: Severity::Critical,
            expr: format!("sum(increase({connect}[5m])) > 0"),
            lasting: "2m",
            summary: "Connections to the database can't be opened".into(),
            description: "{value} attempts failed in 5 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "The label says why: the server is down, refuses the settings, or has too many connections.",
            drive: drive(vec![(connect_down, burst(1))], "10"),
        },
        Alert {
            name: "DatabaseStatementThrash",
            severity: Severity::Warning,
            expr: format!("sum(rate({thrash}[5m])) > 10"),
            lasting: "5m",
            summary: "Prepared statements push each other out".into(),
            description: "{value} statements a second are prepared again, each at the price of a round trip.".into(),
            format: "printf \"%.0f\"",
            action: "More texts than `connection.statement_cache_capacity` are in use: raise it, or look in `db.statements()` \
                     for texts that differ in literals and should have parameters.",
            drive: drive(vec![(thrash, burst(600))], "20"),
        },
    ]
}

fn calls(w: &Words<'_>) -> Vec<Alert> {
    let queries = w.of(Id::Queries);
    let failed = w.with(Id::Queries, &[(Status, "error")]);
    let timeouts = w.of(Id::Timeouts);
    let duration = w.part(Id::QueryDuration, "bucket");
    let class_count = w.part(Id::ClassDuration, "count");
    let over = w.of(Id::OverAlert);
    let class = w.label(Class);
    let status = |status| w.with(Id::Queries, &[(Operation, "select"), (Status, status)]);
    let deadlocks = w.with(Id::Retries, &[(Reason, "deadlock")]);
    let deadlock_errors = w.with(Id::Errors, &[(Label::ErrorType, "40P01")]);
    let unknown = w.with(Id::Transactions, &[(Outcome, "unknown")]);
    let budget = w.with(Id::RetriesGivenUp, &[(Reason, "budget")]);
    vec![
        Alert {
            name: "DatabaseQueryFailures",
            severity: Severity::Warning,
            expr: format!(
                "sum(rate({failed}[5m])) / sum(rate({queries}[5m])) > 0.05 and sum(rate({queries}[5m])) > 0.1"
            ),
            lasting: "2m",
            summary: "High database query failure rate".into(),
            description: "{value} of all calls fail.".into(),
            format: "humanizePercentage",
            action: "The panel of errors shows which SQLSTATE, the panel of tables where.",
            drive: drive(
                vec![(status("error"), burst(10)), (status("success"), "0+90x160".into())],
                "10%",
            ),
        },
        Alert {
            name: "DatabaseSlowQueries",
            severity: Severity::Warning,
            expr: format!("{} > 1.0", w.quantile(0.95, Id::QueryDuration, &[])),
            lasting: "5m",
            summary: "Database queries are slow".into(),
            description: "p95 query latency is {value} s.".into(),
            format: "printf \"%.1f\"",
            action: "The split of time says whether calls wait or run; `slow_queries_worst_today` names the statements.",
            drive: drive(
                vec![
                    (format!("{duration}{{le=\"1\"}}"), "0x160".into()),
                    (format!("{duration}{{le=\"5\"}}"), burst(100)),
                    (format!("{duration}{{le=\"+Inf\"}}"), burst(100)),
                ],
                "4.8",
            ),
        },
        Alert {
            name: "DatabaseClassSlow",
            severity: Severity::Warning,
            expr: format!("sum by ({class}) (rate({over}[5m])) / sum by ({class}) (rate({class_count}[5m])) > 0.01"),
            lasting: "5m",
            summary: format!("Calls of class {{{{ $labels.{class} }}}} take longer than they should"),
            description: "{value} of them pass the alert threshold of their class.".into(),
            format: "humanizePercentage",
            action: "See which statements of the class are slow; a statement in the wrong class is moved to another one.",
            drive: Drive {
                labels: vec![(class.clone(), "fast".into())],
                ..drive(
                    vec![
                        (w.with(Id::OverAlert, &[(Class, "fast")]), burst(5)),
                        (format!("{class_count}{{{class}=\"fast\"}}"), "0+100x160".into()),
                    ],
                    "5%",
                )
            },
        },
        Alert {
            name: "DatabaseTimeouts",
            severity: Severity::Warning,
            expr: format!("sum(rate({timeouts}[5m])) / sum(rate({queries}[5m])) > 0.01"),
            lasting: "5m",
            summary: "Database calls run into their limits".into(),
            description: "{value} of all calls are given up at their limit.".into(),
            format: "humanizePercentage",
            action: "Look at the class and the kind of limit; a limit that was learned widens by itself.",
            drive: drive(
                vec![
                    (w.with(Id::Timeouts, &[(Class, "fast"), (Reason, "class")]), burst(5)),
                    (status("success"), "0+100x160".into()),
                ],
                "5%",
            ),
        },
        Alert {
            name: "DatabaseDeadlocks",
            severity: Severity::Warning,
            expr: format!("60 * (sum(rate({deadlocks}[5m])) + (sum(rate({deadlock_errors}[5m])) or vector(0))) > 5"),
            lasting: "5m",
            summary: "Transactions deadlock".into(),
            description: "{value} a minute.".into(),
            format: "printf \"%.0f\"",
            action: "Take locks in one order everywhere; the server's log names both statements.",
            drive: drive(vec![(deadlocks, burst(5))], "10"),
        },
        Alert {
            name: "DatabaseRetryBudgetExhausted",
            severity: Severity::Critical,
            expr: format!("sum(increase({budget}[5m])) > 0"),
            lasting: "1m",
            summary: "Retries are out of budget".into(),
            description: "{value} calls in 5 minutes were not tried again, since too many others were.".into(),
            format: "printf \"%.0f\"",
            action: "Failures are no longer passing: look for what fails, not at the retries.",
            drive: drive(vec![(budget, burst(1))], "10"),
        },
        Alert {
            name: "DatabaseCommitUnknown",
            severity: Severity::Warning,
            expr: format!("sum(increase({unknown}[5m])) > 0"),
            lasting: "0m",
            summary: "The outcome of commits is unknown".into(),
            description: "{value} transactions in 5 minutes lost their connection during COMMIT.".into(),
            format: "printf \"%.0f\"",
            action: "Look for their rows by the keys that the callers made; `transaction.exactly_once` settles it by itself.",
            drive: drive(vec![(unknown, burst(1))], "10"),
        },
    ]
}

/// Work that is refused, and a cache that hears of nobody.
fn load(w: &Words<'_>) -> Vec<Alert> {
    let shed = w.of(Id::Shed);
    let listening = w.of(Id::CacheListening);
    vec![
        Alert {
            name: "DatabaseShedding",
            severity: Severity::Warning,
            expr: format!("sum(rate({shed}[5m])) > 0.1"),
            lasting: "2m",
            summary: "Database calls are sent away".into(),
            description: "{value} a second, since more comes than can be served in time.".into(),
            format: "printf \"%.1f\"",
            action: "More load than capacity: the label says which priority pays for it. Find who asks so much.",
            drive: drive(vec![(shed.clone(), burst(30))], "1.0"),
        },
        Alert {
            name: "DatabaseCacheDeaf",
            severity: Severity::Warning,
            expr: format!("min({listening}) == 0"),
            lasting: "5m",
            summary: "The cache does not hear of other writers".into(),
            description: "Answers are kept for no longer than is safe without it.".into(),
            format: "printf \"%.0f\"",
            action: "The listening connection is lost: is the server up, are its connections used up?",
            drive: drive(vec![(listening, bump("1", "0"))], "0"),
        },
    ]
}

/// The instruments themselves.
fn own(w: &Words<'_>) -> Vec<Alert> {
    let dropped = w.of(Id::SlowLogDropped);
    let max = w.of(Id::PoolMax);
    vec![
        Alert {
            name: "DatabaseSlowQueryLogDropping",
            severity: Severity::Warning,
            expr: format!("sum(increase({dropped}[10m])) > 0"),
            lasting: "5m",
            summary: "The slow-query log loses entries".into(),
            description: "{value} in 10 minutes.".into(),
            format: "printf \"%.0f\"",
            action: "Too much is slow at once, or its table can't be written: the log says which.",
            drive: drive(vec![(w.with(Id::SlowLogDropped, &[(Reason, "full")]), burst(1))], "20"),
        },
        Alert {
            name: "DatabaseMetricsMissing",
            severity: Severity::Warning,
            expr: format!("absent({max})"),
            lasting: "5m",
            summary: "No database metrics arrive".into(),
            description: "Nothing is known about the database calls of this service.".into(),
            format: "printf \"%.0f\"",
            action: "Is the service up, is its exporter scraped, has the namespace changed?",
            drive: Drive {
                series: vec![(max, "10x20 _x60 10x80".into())],
                ..drive(Vec::new(), "1")
            },
        },
    ]
}
