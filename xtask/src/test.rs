//! `cargo xtask test`: every test of the workspace against one throwaway PostgreSQL; with `--through-pgbouncer PROGRAM`
//! those of facade and pool that apply there, through a PgBouncer in transaction mode (a profile of `.config/nextest.toml`).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo;
use crate::child::{self, Ended};
use crate::counts::Counts;
use crate::pooled::{self, Kind};
use crate::skips::{self, SkipLog};

/// The superuser URL of the server that tests use; set by `db-bench pg --exec`, or by you for a server of your own.
const SERVER: &str = "DB_STACK_PG_URL";
/// The address of the PgBouncer before it; set by `db-bench pg --pgbouncer`.
const POOLER: &str = "DB_STACK_PG_POOLER";
/// The option that asks for one.
const THROUGH: &str = "--through-pgbouncer";

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let mut args = args;
    if args.first().is_some_and(|first| first == THROUGH) {
        anyhow::ensure!(
            args.len() > 1,
            "{THROUGH} needs a program, for example /usr/sbin/pgbouncer"
        );
        let program = args.remove(1);
        args.remove(0);
        let kind = Kind::of_program(&program)?;
        return with_server(&[OsString::from("--pgbouncer"), program], Some(kind), args);
    }
    if env::var_os(SERVER).is_none() {
        return with_server(&[], None, args);
    }
    child::watch()?;
    let log = SkipLog::create(&cargo::root().join("target/xtask"))?;
    let mut run = Run {
        log: &log,
        counts: Counts::default(),
        failed: Vec::new(),
    };
    run.unit_and_integration(&args)?;
    if !child::interrupted() && !through_pooler() {
        run.doc(&args)?;
    }
    run.report(&args)
}

/// Starts the server and this very command again under it: one server for both runners, stopped when they are done.
fn with_server(options: &[OsString], pooler: Option<Kind>, args: Vec<OsString>) -> Result<ExitCode> {
    let own = env::current_exe().context("cannot find the path of this program")?;
    let mut command = cargo::cargo();
    command
        .args(["run", "-q", "-p", "db-bench", "--", "pg"])
        .args(options)
        .args(["--exec", "--"])
        .arg(own)
        .arg("test")
        .args(args);
    if let Some(kind) = pooler {
        command.env(pooled::KIND, kind.name());
    }
    cargo::become_it(&mut command)
}

fn through_pooler() -> bool {
    env::var_os(POOLER).is_some()
}

/// The kind of the pooler before the server.
fn behind() -> Option<Kind> {
    let kind = env::var(pooled::KIND).ok().filter(|_| through_pooler());
    kind.as_deref().and_then(Kind::of_name)
}

struct Run<'a> {
    log: &'a SkipLog,
    counts: Counts,
    failed: Vec<&'static str>,
}

impl Run<'_> {
    fn unit_and_integration(&mut self, args: &[OsString]) -> Result<()> {
        let profile = if through_pooler() { "pgbouncer" } else { "default" };
        if !cargo::has("nextest") {
            anyhow::ensure!(
                !through_pooler(),
                "{THROUGH} needs cargo-nextest, which knows the tests that apply"
            );
            println!("cargo-nextest is not installed: using cargo test");
            let mut command = self.cargo(&["test", "--all-targets", "--no-fail-fast"], args);
            return self.cargo_test("tests", &mut command);
        }
        // Where nextest writes its totals (`.config/nextest.toml`).
        let junit = cargo::root().join("target/nextest").join(profile).join("junit.xml");
        // Totals of an earlier run must not count for this one.
        let _ = fs::remove_file(&junit);
        // Under a filter it may be that only doc tests match; that nothing matched at all is judged at the end.
        let none = if args.is_empty() {
            "--no-tests=fail"
        } else {
            "--no-tests=warn"
        };
        let mut command = self.cargo(&["nextest", "run", "--profile", profile, none], args);
        // With a filter of one's own everything can be asked for, that which does not apply too.
        if let Some(kind) = behind().filter(|_| !args.iter().any(|arg| filters(arg))) {
            println!("{}", pooled::summary(kind)?);
            command.args(["-E", &pooled::filter(kind)?]);
        }
        let ended = child::run(&mut command)?;
        self.note("tests", &ended);
        let totals = fs::read_to_string(&junit).ok();
        self.counts += totals.as_deref().and_then(Counts::of_junit).unwrap_or_default();
        Ok(())
    }

    fn doc(&mut self, args: &[OsString]) -> Result<()> {
        if args.len() > 1 || args.iter().any(|arg| is_option(arg)) {
            println!("doc tests: left out, since they take one name at most and none of the test runner's options");
            return Ok(());
        }
        let mut command = self.cargo(&["test", "--doc", "--no-fail-fast"], args);
        self.cargo_test("doc tests", &mut command)
    }

    fn cargo_test(&mut self, what: &'static str, command: &mut Command) -> Result<()> {
        let mut counts = Counts::default();
        let ended = child::run_seen(command, &mut |line| counts += Counts::of_line(line).unwrap_or_default())?;
        self.counts += counts;
        self.note(what, &ended);
        Ok(())
    }

    fn cargo(&self, first: &[&str], args: &[OsString]) -> Command {
        let mut command = cargo::cargo_at_root();
        command.env(skips::VARIABLE, self.log.path()).args(first);
        // Together with --workspace a chosen package would still build all of them.
        if !args.iter().any(|arg| chooses_package(arg)) {
            command.arg("--workspace");
        }
        command.args(args);
        command
    }

    fn note(&mut self, what: &'static str, ended: &Ended) {
        if !ended.success() {
            self.failed.push(what);
        }
    }

    fn report(mut self, args: &[OsString]) -> Result<ExitCode> {
        let skips = self.log.read()?;
        if !skips.is_empty() {
            println!("\nskipped:");
            for (line, times) in &skips {
                println!("  {times} x {line}");
            }
            if cargo::require_all() {
                self.failed.push("skips (DB_STACK_REQUIRE_ALL=1)");
            }
        }
        if !args.is_empty() && self.counts.total() == 0 && self.failed.is_empty() {
            self.failed.push("no test matched");
        }
        if !self.failed.is_empty() {
            println!("\nfailed: {}", self.failed.join(", "));
        }
        println!("\ntests: {}", self.counts);
        Ok(match (child::interrupted(), self.failed.is_empty()) {
            (true, _) => child::interrupted_code(),
            (false, true) => ExitCode::SUCCESS,
            (false, false) => ExitCode::FAILURE,
        })
    }
}

/// Not a part of a test's name, which both runners would understand.
fn is_option(arg: &OsStr) -> bool {
    arg.as_encoded_bytes().starts_with(b"-")
}

fn filters(arg: &OsStr) -> bool {
    arg.to_str()
        .is_some_and(|arg| arg == "-E" || arg == "--filterset" || arg.starts_with("--filterset="))
}

fn chooses_package(arg: &OsStr) -> bool {
    arg.to_str()
        .is_some_and(|arg| arg == "-p" || arg == "--package" || arg.starts_with("--package="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_from_names() {
        assert!(!is_option(OsStr::new("cancelled_begin")));
        assert!(is_option(OsStr::new("-E")));
        assert!(chooses_package(OsStr::new("-p")) && chooses_package(OsStr::new("--package=db-core")));
        assert!(!chooses_package(OsStr::new("--profile")) && !chooses_package(OsStr::new("pool")));
    }
}
