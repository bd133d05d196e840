//! `cargo xtask features`: every feature of every crate compiles alone, and every crate compiles without any.

use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

use crate::{cargo, child};

pub(crate) fn run() -> Result<ExitCode> {
    child::watch()?;
    let metadata = MetadataCommand::new()
        .current_dir(cargo::root())
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let mut failed = Vec::new();
    let mut checked = 0;
    for package in metadata.workspace_packages() {
        let features = package.features.keys().filter(|feature| *feature != "default");
        let features: Vec<_> = features.map(String::as_str).collect();
        if features.is_empty() {
            continue;
        }
        for feature in [""].into_iter().chain(features) {
            if child::interrupted() {
                return Ok(child::interrupted_code());
            }
            let what = format!(
                "{} with {}",
                package.name,
                if feature.is_empty() { "no feature" } else { feature }
            );
            println!("== {what}");
            let mut check = cargo::cargo_at_root();
            check.args([
                "check",
                "--quiet",
                "-p",
                &package.name,
                "--no-default-features",
                "--features",
                feature,
            ]);
            // Beside the usual one, which would be built anew after each combination.
            check.env("CARGO_TARGET_DIR", cargo::root().join("target/features"));
            if !child::run(&mut check)?.success() {
                failed.push(what);
            }
            checked += 1;
        }
    }
    if failed.is_empty() {
        println!("features: all {checked} combinations compile");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "features: {} of {checked} do not compile: {}",
        failed.len(),
        failed.join(", ")
    );
    Ok(ExitCode::FAILURE)
}
