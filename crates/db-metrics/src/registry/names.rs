//! How metrics are called outside.

use super::{Id, Kind, Label, Unit};
use serde::{Deserialize, Serialize};

/// Which of the two sets of names is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NameSet {
    /// `{namespace}_db_queries_total{operation, status}` and so on.
    #[default]
    Report,
    /// The semantic conventions: `db.client.operation.duration`; what they do not name begins with `db_stack.`.
    OpenTelemetry,
}

impl NameSet {
    /// The word in a configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::OpenTelemetry => "opentelemetry",
        }
    }
}

/// A set of names with its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Which set.
    pub set: NameSet,
    /// The first part of the names of [`NameSet::Report`].
    pub namespace: String,
}

impl Names {
    /// The name under which Prometheus sees the metric: OpenTelemetry's by the usual translation (dots become
    /// underscores, the unit and `_total` are appended).
    pub fn prometheus(&self, id: Id) -> String {
        let metric = id.metric();
        match self.set {
            NameSet::Report => format!("{}_{}", self.namespace, metric.report),
            NameSet::OpenTelemetry => {
                let unit = match metric.unit {
                    Unit::Seconds => "_seconds",
                    Unit::Bytes => "_bytes",
                    Unit::One | Unit::Of(_) => "",
                };
                let total = if metric.kind == Kind::Counter { "_total" } else { "" };
                format!("{}{unit}{total}", metric.instrument.replace('.', "_"))
            }
        }
    }

    /// The name that the `metrics` facade is given: Prometheus's, or the instrument's own where another recorder than
    /// the built-in exporter listens.
    pub(crate) fn facade(&self, id: Id, prometheus: bool) -> String {
        match self.set {
            NameSet::OpenTelemetry if !prometheus => id.metric().instrument.to_owned(),
            _ => self.prometheus(id),
        }
    }

    /// A label's name in this set, as Prometheus sees it.
    pub fn label(&self, label: Label) -> String {
        match self.set {
            NameSet::Report => label.report().to_owned(),
            NameSet::OpenTelemetry => label.attribute().replace('.', "_"),
        }
    }

    /// The labels of a metric in this set. Only the conventions' duration has the kind of error as well.
    pub fn labels(&self, id: Id) -> Vec<Label> {
        let mut labels = id.metric().labels.to_vec();
        if id == Id::QueryDuration && self.set == NameSet::OpenTelemetry {
            labels.push(Label::ErrorType);
        }
        labels
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            set: NameSet::Report,
            namespace: "ava".to_owned(),
        }
    }
}
