//! The whole report: every area, each question with its limit, and what could not be seen.

mod config;
mod health;
mod indexes;
mod sessions;
mod slow;

use crate::{
    AdvisorError, Area, Explainer, Finding, IndexAdvice, Looking, Severity,
    explain::ExplainConfig,
    workload::{ClientLoad, StatementLoad, Workload},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// What is asked, and from when on something is worth telling.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DoctorOptions {
    /// A session that idles in a transaction for longer is told. Default 60 s (the report's leak threshold).
    pub idle_in_transaction: Duration,
    /// A statement with a longer mean is slow. Default 100 ms (the report).
    pub slow: Duration,
    /// Statements that are explained, those with the most time first. Default 20 (own choice).
    pub explain: u32,
    /// All of it ends by then. Default 25 s: the promise is 30 s.
    pub budget: Duration,
    /// Connections of one instance's pool, to be checked against the server's limit. Default none.
    pub pool: Option<u32>,
    /// Instances with such a pool. Default 1.
    pub instances: u32,
    /// The client's own figures, joined with the server's by fingerprint. Default none.
    pub client: Vec<ClientLoad>,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        Self {
            idle_in_transaction: Duration::from_secs(60),
            slow: Duration::from_millis(100),
            explain: 20,
            budget: Duration::from_secs(25),
            pool: None,
            instances: 1,
            client: Vec::new(),
        }
    }
}

/// What a later visit compares with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The workload at that time.
    pub workload: Workload,
    /// The plans at that time, by the server's number of the statement.
    pub plans: BTreeMap<i64, KnownPlan>,
}

/// A plan that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownPlan {
    /// Equal for plans that do the same.
    pub shape: u64,
    /// Its cost.
    pub cost: f64,
    /// Its steps.
    pub outline: String,
}

impl Snapshot {
    /// Reads one; `None` when there is no such file yet.
    ///
    /// # Errors
    /// When it can't be read or is not a snapshot.
    pub fn load(path: &Path) -> Result<Option<Self>, AdvisorError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let what = format!("can't read {}", path.display());
                return Err(AdvisorError::File { what, source });
            }
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|source| AdvisorError::Snapshot {
            what: path.display().to_string(),
            source,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save(&self, path: &Path) -> Result<(), AdvisorError> {
        let what = || format!("can't write {}", path.display());
        let text = serde_json::to_vec_pretty(self).map_err(|error| AdvisorError::File {
            what: what(),
            source: error.into(),
        })?;
        std::fs::write(path, text).map_err(|source| AdvisorError::File { what: what(), source })
    }
}

/// The report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The database.
    pub database: String,
    /// The server's version.
    pub version: String,
    /// When, as the server writes it.
    pub at: String,
    /// How long looking took, milliseconds.
    pub took_ms: u64,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be seen, and why.
    pub unseen: Vec<String>,
    /// Indexes that would help.
    pub advice: Vec<IndexAdvice>,
    /// The statements with the most time, up to ten.
    pub top: Vec<StatementLoad>,
    /// The same statements as the client sees them, those first that cost callers most outside the server; up to ten.
    /// Empty without the client's figures.
    pub outside: Vec<Outside>,
    /// For the next visit.
    #[serde(skip)]
    pub snapshot: Snapshot,
}

/// A statement from both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its text, in one line.
    pub statement: String,
    /// Calls that the client counted.
    pub calls: u64,
    /// The server's mean, milliseconds.
    pub server_ms: f64,
    /// The client's mean, milliseconds.
    pub client_ms: f64,
    /// Of that, what the server did not spend: waiting for a connection, retries, the network.
    pub outside_ms: f64,
}

impl Report {
    /// The worst that was found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// Ten points for a database without findings: the mean of the areas.
    pub fn score(&self) -> f64 {
        let sum: f64 = Area::ALL.iter().map(|area| area.score(&self.findings)).sum();
        sum / Area::ALL.len() as f64
    }
}

/// One visit: the connection, what it has found so far, and what it could not see.
pub(crate) struct Visit<'a> {
    pub(crate) looking: &'a mut Looking,
    pub(crate) options: &'a DoctorOptions,
    pub(crate) before: Option<&'a Snapshot>,
    pub(crate) explainer: Explainer,
    pub(crate) findings: Vec<Finding>,
    pub(crate) unseen: Vec<String>,
    pub(crate) advice: Vec<IndexAdvice>,
    pub(crate) snapshot: Snapshot,
    deadline: Instant,
}

impl Visit<'_> {
    pub(crate) fn found(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(crate) fn time_left(&self) -> bool {
        Instant::now() < self.deadline
    }

    /// One area's question: in a read-only transaction of its own, and where the server refuses it, that is told.
    async fn ask(
        &mut self,
        what: &str,
        question: impl AsyncFnOnce(&mut Self) -> Result<(), AdvisorError>,
    ) -> Result<(), AdvisorError> {
        if !self.time_left() {
            self.unseen.push(format!("{what}: no time left"));
            return Ok(());
        }
        self.looking.begin().await?;
        let answered = question(self).await;
        match answered {
            Ok(()) => {}
            Err(AdvisorError::Sql(sqlx::Error::Database(error))) => {
                self.unseen.push(format!("{what}: {}", error.message()));
            }
            Err(error) => return Err(error),
        }
        self.looking.end().await
    }
}

/// Looks at everything. `before` is what the last visit left.
///
/// # Errors
/// When the connection breaks. What the server refuses to show is in [`Report::unseen`].
pub async fn doctor(
    looking: &mut Looking,
    options: &DoctorOptions,
    before: Option<&Snapshot>,
) -> Result<Report, AdvisorError> {
    let since = Instant::now();
    let (database, version, at): (String, String, String) = sqlx::query_as(
        "SELECT current_database()::text, current_setting('server_version'), date_trunc('second', now())::text",
    )
    .fetch_one(&mut looking.pg)
    .await?;
    let mut visit = Visit {
        explainer: Explainer::new(ExplainConfig {
            enabled: options.explain > 0,
            per_minute: options.explain,
            writes: false,
        }),
        looking,
        options,
        before,
        findings: Vec::new(),
        unseen: Vec::new(),
        advice: Vec::new(),
        snapshot: Snapshot::default(),
        deadline: since + options.budget,
    };
    visit.ask("settings", config::settings).await?;
    visit.ask("connections", config::connections).await?;
    visit.ask("security", config::security).await?;
    visit
        .ask("password methods of pg_hba.conf", config::password_methods)
        .await?;
    visit.ask("stored passwords", config::stored_passwords).await?;
    visit.ask("tables", health::tables).await?;
    visit.ask("sizes of tables", health::sizes).await?;
    visit.ask("rights", health::rights).await?;
    visit.ask("sequences", health::sequences).await?;
    visit.ask("transaction numbers", health::wraparound).await?;
    visit.ask("indexes", indexes::useless).await?;
    visit.ask("foreign keys", indexes::foreign_keys).await?;
    visit.ask("sessions", sessions::leaks).await?;
    visit.ask("prepared transactions", sessions::prepared).await?;
    visit.ask("replication", sessions::replication).await?;
    slow::statements(&mut visit).await?;
    let mut findings = visit.findings;
    findings.sort_by(|a, b| (b.severity, a.area, &a.id, &a.subject).cmp(&(a.severity, b.area, &b.id, &b.subject)));
    let outside = slow::outside(&visit.snapshot.workload, &options.client);
    let top = visit.snapshot.workload.statements.iter().take(10).cloned().collect();
    Ok(Report {
        database,
        version,
        at,
        took_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings,
        unseen: visit.unseen,
        advice: visit.advice,
        top,
        outside,
        snapshot: visit.snapshot,
    })
}
