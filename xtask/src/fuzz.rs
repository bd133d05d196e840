//! `cargo xtask fuzz`: the targets of `crates/db-fuzz`, one after the other, each for a while.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use clap::Args;

use crate::{cargo, child};

/// The package that has them.
const PACKAGE: &str = "db-fuzz";

#[derive(Args)]
pub(crate) struct Options {
    /// One target; without it all of them.
    target: Option<String>,
    /// Seconds for each.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    child::watch()?;
    if !cargo::has("fuzz") {
        bail!("this needs cargo-fuzz: cargo install cargo-fuzz --locked");
    }
    let all = targets()?;
    let chosen: Vec<_> = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target {name}; there are {}", all.join(", ")),
        None => all,
    };
    let target = cargo::root().join("target/fuzz");
    let mut failed = Vec::new();
    for name in chosen {
        println!("== {name}");
        let corpus = target.join("corpus").join(&name);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let mut command = cargo::cargo_at_root();
        // No unsafe code, so no sanitizer. Coverage needs a switch that a stable compiler has under this name only.
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir", "crates/db-fuzz", "--sanitizer", "none"])
            .arg("--target-dir")
            .arg(&target)
            .arg(&name)
            .arg(&corpus)
            .args(["--", "-timeout=10", "-print_final_stats=1"])
            .arg(format!("-max_total_time={}", options.seconds));
        let ended = child::run(&mut command)?;
        if child::interrupted() {
            return Ok(child::interrupted_code());
        }
        if !ended.success() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("fuzz: nothing found");
        return Ok(ExitCode::SUCCESS);
    }
    println!("fuzz: found something: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn targets() -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .current_dir(cargo::root())
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == PACKAGE)
        .with_context(|| format!("no package {PACKAGE}"))?;
    let bins = package.targets.iter().filter(|target| target.is_bin());
    Ok(bins.map(|target| target.name.clone()).collect())
}
