//! `cargo xtask dashboards`: rules, dashboards and the reference of metrics in `docs/monitoring/`, from the registry.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    cargo::become_it(
        cargo::cargo_at_root()
            .args(["run", "-q", "-p", "db-metrics", "--example", "dashboards", "--"])
            .args(args),
    )
}
