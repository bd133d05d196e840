//! `cargo xtask demo`: the workload under faults, from `db-bench` in release mode.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    cargo::become_it(
        cargo::cargo()
            .args(["run", "--release", "-p", "db-bench", "--", "demo"])
            .args(args),
    )
}
