//! The comparison with the pools that people use today, interleaved in one run, so that only ratios matter.

mod alarm;
pub(crate) mod closed;
mod cost;
mod deadpool;
mod driver;
mod measure;
mod open;
mod pgbench;
pub(crate) mod plan;
mod print;
pub(crate) mod report;
pub(crate) mod sample;
pub(crate) mod scenario;
pub(crate) mod server;
pub(crate) mod subject;

pub(crate) use measure::measure;
pub(crate) use print::{cells as print_cells, ratios as print_ratios};

use crate::pg::{Signals, code_after};
use anyhow::{Context, Result};
use clap::ValueEnum;
use plan::{OPEN, Plan};
use report::Report;
use scenario::Scenario;
use server::Target;
use sqlx::postgres::PgConnectOptions;
use std::{path::PathBuf, process::ExitCode, str::FromStr, time::Duration};
use subject::Subject;

/// Names the server for `--url`.
const URL_VARIABLE: &str = "DB_BENCH_URL";

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ends within 60 s: the point select with 8 and 32 tasks, the open loop at 80 %, the cost of the stack alone.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, every subject has its turn in every cell [default: 5].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds measured per subject, cell and round [default: 0.8; 0.35 with --quick].
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Only these kinds of work.
    #[arg(long = "scenario", value_name = "NAME", value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Only these subjects; a ratio needs both of its sides [default: all that are installed].
    #[arg(long = "subject", value_name = "NAME", value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// Tasks of the closed loop over 8 connections [default: 1,8,32].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    tasks: Vec<u32>,
    /// Loads of the open loop, in percent of what deadpool-postgres does with 32 tasks [default: 50,80].
    #[arg(long = "load", value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=300))]
    loads: Vec<u32>,
    /// Only these parts.
    #[arg(long = "part", value_name = "PART", value_delimiter = ',')]
    parts: Vec<Part>,
    /// Counts instructions per call of the stack alone, too; needs valgrind.
    #[arg(long)]
    instructions: bool,
    /// Writes every sample and ratio to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compares the ratios with those of an earlier --json FILE.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// A server to use instead of a throwaway one; everything goes to a schema of its own, which is dropped at the end.
    #[arg(long, env = URL_VARIABLE, hide_env_values = true)]
    url: Option<String>,
    /// Repeats one step of the stack alone, STEP:CALLS: what --instructions runs under valgrind.
    #[arg(long, hide = true)]
    probe: Option<String>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Tasks that call again as soon as they have an answer.
    Closed,
    /// Calls that arrive on a schedule.
    Open,
    /// The cost of the stack alone.
    Stack,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    if let Some(probe) = &args.probe {
        let url = args.url.as_deref().context("a probe needs --url")?;
        cost::repeat(probe, PgConnectOptions::from_str(url)?).await?;
        return Ok(ExitCode::SUCCESS);
    }
    // Read first: a wrong file should not cost minutes.
    let baseline = args.baseline.as_deref().map(Report::load).transpose()?;
    let mut signals = Signals::watch()?;
    let mut target = None;
    let outcome = match signals.or_done(bench(&args, baseline, &mut target)).await {
        Ok(outcome) => outcome.map(|()| ExitCode::SUCCESS),
        Err(signal) => Ok(code_after(signal)),
    };
    if let Some(target) = target {
        target.clean_up().await;
    }
    outcome
}

async fn bench(args: &Args, baseline: Option<Report>, place: &mut Option<Target>) -> Result<()> {
    let target = place.insert(Target::start(args.url.as_deref()).await?);
    let mut report = measure(args.plan(), target).await?;
    if args.wants(Part::Stack) {
        report.costs = cost::measure(target, args.instructions).await?;
    }
    if !report.samples.is_empty() {
        print::cells(&report);
    }
    if !report.costs.is_empty() {
        cost::print(&report.costs);
    }
    if let Some(baseline) = &baseline {
        print::changes(&report, baseline);
    }
    if !report.ratios.is_empty() {
        print::ratios(&report);
    }
    match &args.json {
        Some(file) => report.save(file),
        None => Ok(()),
    }
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn plan(&self) -> Plan {
        let or = |list: &[u32], default: &[u32]| {
            if list.is_empty() {
                default.to_vec()
            } else {
                list.to_vec()
            }
        };
        let scenarios = match (self.scenarios.is_empty(), self.quick) {
            (false, _) => self.scenarios.clone(),
            (true, true) => vec![Scenario::PointSelect],
            (true, false) => Scenario::value_variants().to_vec(),
        };
        let tasks = or(&self.tasks, if self.quick { &[8, 32] } else { &[1, 8, 32] });
        let loads = or(&self.loads, if self.quick { &[80] } else { &[50, 80] });
        let closed: &[u32] = if self.wants(Part::Closed) { &tasks } else { &[] };
        let open: &[u32] = if self.wants(Part::Open) { &loads } else { &[] };
        let (all, in_the_open) = match self.subjects.as_slice() {
            [] => (Subject::value_variants(), OPEN.as_slice()),
            named => (named, named),
        };
        let mut plan = Plan::grid(&scenarios, (closed, all), (open, in_the_open));
        if self.quick {
            plan.span = Duration::from_millis(350);
        }
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        plan.span = self.seconds.unwrap_or(plan.span);
        plan
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.05..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("allowed is 0.05..=600".to_owned())
    }
}
