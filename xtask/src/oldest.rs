//! `cargo xtask oldest`: what the manifests say of the versions that they need is true, and the oldest of them compile.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{cargo, child, tidy};

pub(crate) fn run() -> Result<ExitCode> {
    child::watch()?;
    let folder = cargo::root().join("target/oldest");
    let copy = folder.join("source");
    // A copy, since the lock file changes. What git would commit, so that nothing built is copied.
    let _ = fs::remove_dir_all(&copy);
    let files = tidy::repository_files()?.context("this is not a git checkout (what git would commit is copied)")?;
    for file in files {
        let (from, to) = (cargo::root().join(&file), copy.join(&file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("cannot copy {file}"))?;
    }
    // The stable cargo has the option under this name only. Those that others need are the newest: they don't keep to
    // what they say.
    let mut update = cargo::cargo();
    update
        .current_dir(&copy)
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["update", "-Z", "direct-minimal-versions"]);
    let mut check = cargo::cargo();
    check
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .args(["check", "--quiet", "--workspace", "--all-targets"]);
    for (command, what) in [
        (&mut update, "no such versions go together"),
        (&mut check, "they do not compile"),
    ] {
        let ended = child::run(command)?;
        if child::interrupted() {
            return Ok(child::interrupted_code());
        }
        if !ended.success() {
            println!("oldest: {what}");
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("oldest: the oldest versions that the manifests allow compile");
    Ok(ExitCode::SUCCESS)
}
