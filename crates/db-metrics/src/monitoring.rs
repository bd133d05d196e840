//! Dashboards and alerts as code, generated from the registry: a metric that is renamed is renamed in all of them, and
//! one that goes away does not compile.

mod alerts;
mod dashboard;
mod reference;
mod rules;
mod yaml;

pub use alerts::{Alert, Drive, Severity, alerts};
pub use rules::{RecordingRule, recording_rules};

use crate::registry::{Id, Label, NameSet, Names};

/// A file of `docs/monitoring/` and what belongs into it.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its name in the folder.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// All generated files: for each set of names the rules, their tests and the dashboard, and the reference of metrics.
pub fn pages() -> Vec<Page> {
    let page = |name: &str, text: String| Page {
        name: name.to_owned(),
        text,
    };
    let mut pages = vec![
        page("metrics.md", reference::metrics()),
        page("runbook.md", reference::runbook()),
    ];
    for set in [NameSet::Report, NameSet::OpenTelemetry] {
        let names = Names {
            set,
            ..Names::default()
        };
        let suffix = match set {
            NameSet::Report => "",
            NameSet::OpenTelemetry => ".opentelemetry",
        };
        let rules = format!("rules{suffix}.yml");
        pages.push(page(&format!("rules{suffix}.test.yml"), yaml::tests(&names, &rules)));
        pages.push(page(&rules, yaml::rules(&names)));
        pages.push(page(&format!("dashboard{suffix}.json"), dashboard::dashboard(&names)));
    }
    pages
}

/// Writes expressions with the names of one set.
pub(crate) struct Words<'a>(pub(crate) &'a Names);

impl Words<'_> {
    pub(crate) fn of(&self, id: Id) -> String {
        self.0.prometheus(id)
    }

    /// `{label="value"}` after the name.
    pub(crate) fn with(&self, id: Id, labels: &[(Label, &str)]) -> String {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{}=\"{value}\"", self.0.label(*label)))
            .collect();
        format!("{}{{{}}}", self.of(id), labels.join(","))
    }

    /// The bucket, count or sum of a histogram.
    pub(crate) fn part(&self, id: Id, part: &str) -> String {
        format!("{}_{part}", self.of(id))
    }

    pub(crate) fn label(&self, label: Label) -> String {
        self.0.label(label)
    }

    /// Connections that callers have.
    pub(crate) fn used(&self) -> String {
        let state = match self.0.set {
            NameSet::Report => "active",
            NameSet::OpenTelemetry => "used",
        };
        self.with(Id::PoolConnections, &[(Label::State, state)])
    }

    pub(crate) fn rate(&self, id: Id) -> String {
        format!("sum(rate({}[5m]))", self.of(id))
    }

    /// A quantile over five minutes, by `by` where it is not empty.
    pub(crate) fn quantile(&self, q: f64, id: Id, by: &[Label]) -> String {
        let by: Vec<_> = std::iter::once("le".to_owned())
            .chain(by.iter().map(|label| self.label(*label)))
            .collect();
        let bucket = self.part(id, "bucket");
        format!(
            "histogram_quantile({q}, sum by ({}) (rate({bucket}[5m])))",
            by.join(", ")
        )
    }
}
