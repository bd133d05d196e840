//! `cargo xtask check`: every rule that needs no server; all steps run, then a table says how each went.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::{api, cargo, child, deny, layering, tidy};

#[derive(Args)]
pub(crate) struct Options {
    /// Format, and apply what clippy can mend by itself, before checking.
    #[arg(long)]
    fix: bool,
}

/// How a step ended.
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    /// A tool is missing that anyone can install: a failure where `DB_STACK_REQUIRE_ALL=1`.
    Missing(String),
    /// Not possible here, and nobody's fault.
    Skipped(String),
}

impl Outcome {
    pub(crate) fn of_command(command: &mut Command) -> Result<Self> {
        let ended = child::run(command)?;
        Ok(if ended.success() {
            Self::Passed
        } else {
            Self::Failed(format!("exit code {}", ended.code()))
        })
    }

    /// A rule's findings; each is printed where it is found out, the table gets their number.
    pub(crate) fn of_findings(findings: &[String]) -> Self {
        for finding in findings {
            eprintln!("error: {finding}");
        }
        if findings.is_empty() {
            Self::Passed
        } else {
            Self::Failed(format!("{} found", findings.len()))
        }
    }
}

type Check = fn() -> Result<Outcome>;

struct Row {
    step: &'static str,
    outcome: Outcome,
    took: Duration,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    const STEPS: [(&str, Check); 8] = [
        ("fmt", fmt),
        ("clippy", clippy),
        ("doc", doc),
        ("api", api::check),
        ("layering", layering::check),
        ("deny", deny::offline),
        ("advisories", deny::advisories),
        ("tidy", tidy::check),
    ];
    child::watch()?;
    if options.fix {
        fix()?;
    }
    let mut rows = Vec::new();
    for (step, check) in STEPS {
        if child::interrupted() {
            return Ok(child::interrupted_code());
        }
        println!("== {step}");
        let started = Instant::now();
        // A step that can't even start must not hide what the others would say.
        let outcome = check().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        rows.push(Row {
            step,
            outcome,
            took: started.elapsed(),
        });
    }
    Ok(report(&rows, cargo::require_all()))
}

fn fix() -> Result<()> {
    println!("== fix");
    child::run(cargo::cargo_at_root().args(["fmt", "--all"]))?;
    let mut clippy = cargo::cargo_at_root();
    clippy.args([
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
    ]);
    child::run(&mut clippy)?;
    Ok(())
}

fn fmt() -> Result<Outcome> {
    Outcome::of_command(cargo::cargo_at_root().args(["fmt", "--all", "--", "--check"]))
}

fn clippy() -> Result<Outcome> {
    Outcome::of_command(cargo::cargo_at_root().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn doc() -> Result<Outcome> {
    let mut flags = env::var_os("RUSTDOCFLAGS").unwrap_or_default();
    flags.push(OsString::from(" -Dwarnings"));
    Outcome::of_command(
        cargo::cargo_at_root()
            .args(["doc", "--no-deps", "--workspace"])
            .env("RUSTDOCFLAGS", flags),
    )
}

fn report(rows: &[Row], require_all: bool) -> ExitCode {
    println!();
    let mut failed = 0;
    let mut skipped = Vec::new();
    for Row { step, outcome, took } in rows {
        let (result, why) = match outcome {
            Outcome::Passed => ("ok", ""),
            Outcome::Failed(why) => ("FAILED", why.as_str()),
            Outcome::Missing(why) if require_all => ("FAILED", why.as_str()),
            Outcome::Missing(why) | Outcome::Skipped(why) => {
                skipped.push(why);
                ("skipped", "see below")
            }
        };
        failed += usize::from(result == "FAILED");
        let line = format!("{step:<12}{result:<9}{:>7.1} s  {why}", took.as_secs_f64());
        println!("{}", line.trim_end());
    }
    for why in skipped {
        println!("skipped: {why}");
    }
    if failed > 0 {
        println!("check: {failed} of {} steps failed", rows.len());
        return ExitCode::FAILURE;
    }
    println!("check: ok");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(outcome: Outcome) -> [Row; 1] {
        [Row {
            step: "step",
            outcome,
            took: Duration::ZERO,
        }]
    }

    fn failed(code: ExitCode) -> bool {
        format!("{code:?}") != format!("{:?}", ExitCode::SUCCESS)
    }

    #[test]
    fn a_missing_tool_fails_only_where_all_is_required() {
        assert!(!failed(report(&rows(Outcome::Missing("x".into())), false)));
        assert!(failed(report(&rows(Outcome::Missing("x".into())), true)));
        assert!(!failed(report(&rows(Outcome::Skipped("x".into())), true)));
        assert!(failed(report(&rows(Outcome::Failed("x".into())), false)));
    }

    #[test]
    fn findings_fail() {
        assert!(matches!(Outcome::of_findings(&[]), Outcome::Passed));
        assert!(matches!(Outcome::of_findings(&["a".into(), "b".into()]), Outcome::Failed(why) if why == "2 found"));
    }
}
