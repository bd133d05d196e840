//! Runs a plan: all subjects in turn within each cell of each round.

use super::{
    closed::Closed,
    open::Open,
    plan::{CAPACITY_OF, CAPACITY_TASKS, Plan, order},
    report::{Measured, Report, Setting},
    scenario::Scenario,
    server::Target,
    subject::{Subject, Subjects},
};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::sleep;

/// How long each subject runs before anything is measured: connections are opened, statements prepared.
const WARM_UP: Duration = Duration::from_millis(250);
/// Between two subjects: what the last one left behind (pings on release, closing tasks) is not the next one's.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs the plan against a server.
pub(crate) async fn measure(plan: Plan, target: &Target) -> Result<Report> {
    if plan.is_empty() {
        return Ok(Report::new(&plan, target.version().await?));
    }
    let subjects = Subjects::connect(target).await?;
    let outcome = Bench {
        plan: plan.with_capacities(),
        target,
        subjects: &subjects,
    };
    let report = outcome.run().await;
    subjects.close().await;
    report
}

struct Bench<'a> {
    plan: Plan,
    target: &'a Target,
    subjects: &'a Subjects,
}

impl Bench<'_> {
    async fn run(&self) -> Result<Report> {
        let mut report = Report::new(&self.plan, self.target.version().await?);
        self.warm_up().await?;
        for round in 0..self.plan.rounds {
            eprintln!("round {} of {}", round + 1, self.plan.rounds);
            // Side by side, so that the capacity is that of the machine as it is just now.
            for scenario in self.plan.scenarios() {
                self.closed_round(scenario, round, &mut report).await?;
                self.open_round(scenario, round, &mut report).await?;
            }
        }
        report.compare();
        Ok(report)
    }

    async fn warm_up(&self) -> Result<()> {
        let mut done: Vec<(Subject, Scenario)> = Vec::new();
        for cell in &self.plan.closed {
            for &subject in &cell.subjects {
                if !self.subjects.can(subject, cell.scenario) || done.contains(&(subject, cell.scenario)) {
                    continue;
                }
                let warm_up = Closed {
                    scenario: cell.scenario,
                    tasks: CAPACITY_TASKS,
                    span: WARM_UP,
                    warm_up: Duration::ZERO,
                    seed: 0,
                };
                self.subjects.closed(subject, warm_up).await?;
                done.push((subject, cell.scenario));
            }
        }
        Ok(())
    }

    async fn closed_round(&self, scenario: Scenario, round: u32, report: &mut Report) -> Result<()> {
        for cell in self.plan.closed.iter().filter(|cell| cell.scenario == scenario) {
            if scenario.writes() {
                self.target.empty().await?;
            }
            for subject in order(&cell.subjects, round) {
                if !self.subjects.can(subject, scenario) {
                    continue;
                }
                sleep(PAUSE).await;
                let closed = Closed {
                    scenario,
                    tasks: cell.tasks,
                    span: self.plan.span,
                    warm_up: self.plan.warm_up(),
                    seed: u64::from(round) + 1,
                };
                let sample = self.subjects.closed(subject, closed).await?;
                report.add(Measured::new(
                    scenario,
                    Setting::Tasks(cell.tasks),
                    subject,
                    round,
                    sample,
                ));
            }
        }
        Ok(())
    }

    async fn open_round(&self, scenario: Scenario, round: u32, report: &mut Report) -> Result<()> {
        for cell in self.plan.open.iter().filter(|cell| cell.scenario == scenario) {
            if scenario.writes() {
                self.target.empty().await?;
            }
            let capacity = capacity(report, scenario, round)?;
            for subject in order(&cell.subjects, round) {
                if subject == Subject::Pgbench {
                    // The open loop is about how a pool hands out what it has; pgbench has no pool.
                    continue;
                }
                sleep(PAUSE).await;
                let open = Open {
                    scenario,
                    rate: capacity * f64::from(cell.load) / 100.0,
                    span: self.plan.span,
                    warm_up: self.plan.warm_up(),
                    seed: u64::from(round) + 1,
                };
                let sample = self.subjects.open(subject, open).await?;
                report.add(Measured::new(
                    scenario,
                    Setting::Load(cell.load),
                    subject,
                    round,
                    sample,
                ));
            }
        }
        Ok(())
    }
}

/// What deadpool-postgres did in the closed loop of this round.
fn capacity(report: &Report, scenario: Scenario, round: u32) -> Result<f64> {
    let mut rounds = report.samples(scenario.name(), Setting::Tasks(CAPACITY_TASKS), CAPACITY_OF.name());
    let measured = rounds.find(|measured| measured.round == round);
    let measured = measured.context("the closed loop that gives the capacity did not run")?;
    Ok(measured.sample.throughput)
}
