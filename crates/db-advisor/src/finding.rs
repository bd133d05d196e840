//! One thing that was found: how bad it is, how it is known, and what to do.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Costs something now, or will.
    Warning,
    /// Stops the service, or soon will.
    Critical,
}

impl Severity {
    /// What it takes from the ten points of its area.
    fn points(self) -> f64 {
        match self {
            Self::Info => 0.0,
            Self::Warning => 2.0,
            Self::Critical => 5.0,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Area {
    /// The server's settings.
    Configuration,
    /// Connections against what the server allows.
    PoolFit,
    /// Tables, sequences, vacuum.
    Health,
    /// What takes long, what is run too often, what changed.
    SlowQueries,
    /// Missing, doubled, unused and broken ones.
    Indexes,
    /// Sessions that hold on to something.
    Leaks,
    /// Standbys and slots.
    Replication,
    /// Passwords, encryption, rights.
    Security,
}

impl Area {
    /// All, in the order of the report.
    pub const ALL: [Self; 8] = [
        Self::Configuration,
        Self::PoolFit,
        Self::Health,
        Self::SlowQueries,
        Self::Indexes,
        Self::Leaks,
        Self::Replication,
        Self::Security,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::PoolFit => "Pool fit",
            Self::Health => "Health",
            Self::SlowQueries => "Slow queries",
            Self::Indexes => "Indexes",
            Self::Leaks => "Leaks",
            Self::Replication => "Replication",
            Self::Security => "Security",
        }
    }

    /// Ten points, less what its findings cost.
    pub fn score(self, findings: &[Finding]) -> f64 {
        let lost: f64 = findings
            .iter()
            .filter(|finding| finding.area == self)
            .map(|finding| finding.severity.points())
            .sum();
        (10.0 - lost).max(0.0)
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name for scripts, for example `missing-index`.
    pub id: String,
    /// What it is about.
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// What it concerns: a table, an index, a statement's fingerprint, a setting.
    pub subject: String,
    /// What is wrong, in one sentence.
    pub title: String,
    /// The figures from which it is known.
    pub evidence: String,
    /// What to do about it: mostly a statement to run.
    pub fix: String,
}

impl Finding {
    pub(crate) fn new(area: Area, severity: Severity, id: &str, subject: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            area,
            severity,
            subject: subject.into(),
            title: String::new(),
            evidence: String::new(),
            fix: String::new(),
        }
    }

    pub(crate) fn title(mut self, text: impl Into<String>) -> Self {
        self.title = text.into();
        self
    }

    pub(crate) fn evidence(mut self, text: impl Into<String>) -> Self {
        self.evidence = text.into();
        self
    }

    pub(crate) fn fix(mut self, text: impl Into<String>) -> Self {
        self.fix = text.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity.name(), self.title, self.evidence)
    }
}
