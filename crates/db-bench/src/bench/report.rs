//! What was measured, as data: samples, ratios, the JSON file and the comparison with an earlier one.

use super::{
    cost::Cost,
    plan::Plan,
    sample::{Sample, Spread},
    scenario::Scenario,
    subject::Subject,
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{fmt, fs, path::Path};

/// The shape of the JSON file; another number is not read.
const FORMAT: u32 = 1;

/// Rounds that a median of the open loop wants.
const ENOUGH: usize = 3;

/// Who is compared with whom.
const PAIRS: [(Subject, Subject); 7] = [
    (Subject::Db, Subject::Sqlx),
    (Subject::Db, Subject::SqlxNoping),
    (Subject::Db, Subject::Deadpool),
    (Subject::Db, Subject::Pgbench),
    (Subject::Lease, Subject::Sqlx),
    (Subject::Lease, Subject::Deadpool),
    // What the facade and its layers cost.
    (Subject::Db, Subject::Lease),
];

/// How much is asked of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Setting {
    /// The closed loop with so many tasks.
    Tasks(u32),
    /// The open loop at so many percent of capacity.
    Load(u32),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tasks(tasks) => write!(f, "tasks={tasks}"),
            Self::Load(load) => write!(f, "load={load}%"),
        }
    }
}

/// One sample and where it comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) scenario: String,
    pub(crate) setting: Setting,
    pub(crate) subject: String,
    pub(crate) round: u32,
    pub(crate) sample: Sample,
}

impl Measured {
    pub(crate) fn new(scenario: Scenario, setting: Setting, subject: Subject, round: u32, sample: Sample) -> Self {
        Self {
            scenario: scenario.name().to_owned(),
            setting,
            subject: subject.name().to_owned(),
            round,
            sample,
        }
    }
}

/// What a ratio is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Calls per second: more is better.
    Throughput,
    /// 99th percentile of the latency: less is better.
    P99,
}

/// One subject against another, pairwise within each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) kind: Kind,
    pub(crate) subject: String,
    pub(crate) peer: String,
    pub(crate) scenario: String,
    pub(crate) setting: Setting,
    pub(crate) rounds: Spread,
}

impl Ratio {
    /// The name, as a script sees it: `ratio db/sqlx point-select tasks=32`.
    pub(crate) fn key(&self) -> String {
        let word = match self.kind {
            Kind::Throughput => "ratio",
            Kind::P99 => "ratio-p99",
        };
        let Self {
            subject,
            peer,
            scenario,
            setting,
            ..
        } = self;
        format!("{word} {subject}/{peer} {scenario} {setting}")
    }
}

/// One run of the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    format: u32,
    pub(crate) server: String,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) samples: Vec<Measured>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) costs: Vec<Cost>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, server: String) -> Self {
        Self {
            format: FORMAT,
            server,
            rounds: plan.rounds,
            seconds: plan.span.as_secs_f64(),
            samples: Vec::new(),
            ratios: Vec::new(),
            costs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, measured: Measured) {
        self.samples.push(measured);
    }

    /// The samples of one subject in one cell, by round.
    pub(crate) fn samples(
        &self,
        scenario: &str,
        setting: Setting,
        subject: &str,
    ) -> impl Iterator<Item = &Measured> + Clone {
        self.samples
            .iter()
            .filter(move |one| one.scenario == scenario && one.setting == setting && one.subject == subject)
    }

    /// Every cell that was measured, in the order of the plan.
    pub(crate) fn cells(&self) -> Vec<(String, Setting)> {
        let mut cells = Vec::new();
        for one in &self.samples {
            let cell = (one.scenario.clone(), one.setting);
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells
    }

    /// The ratio of this name.
    pub(crate) fn ratio(&self, key: &str) -> Option<&Ratio> {
        self.ratios.iter().find(|ratio| ratio.key() == key)
    }

    /// Computes the ratios from the samples.
    pub(crate) fn compare(&mut self) {
        let mut ratios = Vec::new();
        for (scenario, setting) in self.cells() {
            for (subject, peer) in PAIRS {
                for kind in [Kind::Throughput, Kind::P99] {
                    // What the open loop is offered is the same for all.
                    if kind == Kind::Throughput && matches!(setting, Setting::Load(_)) {
                        continue;
                    }
                    let rounds = self.pairwise(&scenario, setting, subject.name(), peer.name(), kind);
                    ratios.extend(rounds.map(|rounds| Ratio {
                        kind,
                        subject: subject.name().to_owned(),
                        peer: peer.name().to_owned(),
                        scenario: scenario.clone(),
                        setting,
                        rounds,
                    }));
                }
            }
        }
        self.ratios = ratios;
    }

    fn pairwise(&self, scenario: &str, setting: Setting, subject: &str, peer: &str, kind: Kind) -> Option<Spread> {
        let value = |sample: &Sample| match kind {
            Kind::Throughput => sample.throughput,
            Kind::P99 => sample.p99 as f64,
        };
        let pairs = self.samples(scenario, setting, subject).filter_map(|one| {
            let mut peers = self.samples(scenario, setting, peer);
            let peer = peers.find(|peer| peer.round == one.round)?;
            Some((value(&one.sample) / value(&peer.sample), peer.sample.kept_up()))
        });
        // Where the peer itself fell behind, the machine had less to give than in its closed loop a moment before, and
        // the round was not at this load. Where that is so in nearly every round, all of them have to do.
        let kept_up = Spread::of(pairs.clone().filter(|(_, kept_up)| *kept_up).map(|(ratio, _)| ratio));
        kept_up
            .filter(|spread| spread.count >= ENOUGH)
            .or_else(|| Spread::of(pairs.map(|(ratio, _)| ratio)))
    }

    /// Writes the run to a file.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
    }

    /// Reads an earlier run.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let report: Self = serde_json::from_str(&text).with_context(|| format!("{} is no report", file.display()))?;
        ensure!(
            report.format == FORMAT,
            "{} has format {}, not {FORMAT}: measure it again",
            file.display(),
            report.format
        );
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report() -> Report {
        let mut report = Report::new(&Plan::grid(&[], (&[], &[]), (&[], &[])), "15".to_owned());
        for (round, (db, sqlx)) in [(20.0, 10.0), (44.0, 20.0), (9.0, 5.0)].into_iter().enumerate() {
            for (subject, throughput) in [(Subject::Db, db), (Subject::Sqlx, sqlx)] {
                let sample = Sample {
                    throughput,
                    p50: 1,
                    p99: 1_000,
                    p999: 2,
                    calls: 1,
                    offered: None,
                    cpu: None,
                };
                let round = u32::try_from(round).unwrap();
                report.add(Measured::new(
                    Scenario::PointSelect,
                    Setting::Tasks(8),
                    subject,
                    round,
                    sample,
                ));
            }
        }
        report.compare();
        report
    }

    #[test]
    fn ratios_are_pairwise_within_a_round() {
        let report = report();
        let ratio = report.ratio("ratio db/sqlx point-select tasks=8").unwrap();
        assert_eq!(
            (ratio.rounds.min, ratio.rounds.median, ratio.rounds.max),
            (1.8, 2.0, 2.2)
        );
        assert!(report.ratio("ratio-p99 db/sqlx point-select tasks=8").is_some());
        assert!(report.ratio("ratio db/pgbench point-select tasks=8").is_none());
    }

    #[test]
    fn a_file_reads_back() {
        let file = std::env::temp_dir().join(format!("db-bench-report-{}", std::process::id()));
        report().save(&file).unwrap();
        let read = Report::load(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read.ratios.len(), report().ratios.len());
        assert_eq!(Duration::from_secs_f64(read.seconds), Duration::from_millis(800));
    }
}
