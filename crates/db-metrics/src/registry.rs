//! Every metric there is, in one table: the recorder, the exporter, the reference, the rules and the dashboard are made
//! from it, so that a renamed metric can't leave a dead alert behind.

mod names;
mod table;

pub use names::{NameSet, Names};
pub use table::{Id, METRICS};

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of seconds, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Prometheus's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share of one, or a truth.
    One,
    /// Things, such as connections.
    Of(&'static str),
}

impl Unit {
    /// The unit in UCUM, as OpenTelemetry writes it.
    pub fn ucum(self) -> String {
        match self {
            Self::Seconds => "s".to_owned(),
            Self::Bytes => "By".to_owned(),
            Self::One => "1".to_owned(),
            Self::Of(thing) => format!("{{{thing}}}"),
        }
    }
}

/// A label. Its values are few, or bounded with `other` for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The SQL verb.
    Operation,
    /// `success`, `error` or `cancelled`.
    Status,
    /// A SQLSTATE or an error's kind; empty for success.
    ErrorType,
    /// A table, as the statement names it.
    Table,
    /// The class of the call.
    Class,
    /// What time was spent on.
    Part,
    /// The state of a connection, or of a breaker.
    State,
    /// Why.
    Reason,
    /// How it ended.
    Outcome,
    /// What was checked.
    Check,
    /// A server.
    Node,
    /// A tenant, as the application names it.
    Tenant,
    /// Who goes first.
    Priority,
}

impl Label {
    /// Its name in the report's style.
    pub fn report(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Status => "status",
            Self::ErrorType => "error_type",
            Self::Table => "table",
            Self::Class => "class",
            Self::Part => "part",
            Self::State => "state",
            Self::Reason => "reason",
            Self::Outcome => "outcome",
            Self::Check => "check",
            Self::Node => "node",
            Self::Tenant => "tenant",
            Self::Priority => "priority",
        }
    }

    /// Its name as an OpenTelemetry attribute: by the conventions where they have one, else our own.
    pub fn attribute(self) -> &'static str {
        match self {
            Self::Operation => "db.operation.name",
            Self::Status => "db_stack.status",
            Self::ErrorType => "error.type",
            // The conventions forbid `db.collection.name` for what was read out of the text.
            Self::Table => "db_stack.table",
            Self::Class => "db_stack.class",
            Self::Part => "db_stack.part",
            Self::State => "db.client.connection.state",
            Self::Reason => "db_stack.reason",
            Self::Outcome => "db_stack.outcome",
            Self::Check => "db_stack.check",
            Self::Node => "db_stack.node",
            Self::Tenant => "db_stack.tenant",
            Self::Priority => "db_stack.priority",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Which.
    pub id: Id,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Its name in the report's style, without the namespace.
    pub report: &'static str,
    /// Its name as an OpenTelemetry instrument.
    pub instrument: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it says.
    pub help: &'static str,
}
