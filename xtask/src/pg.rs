//! `cargo xtask pg`: a throwaway PostgreSQL until Ctrl-C, from `db-bench`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    cargo::become_it(
        cargo::cargo()
            .args(["run", "-q", "-p", "db-bench", "--", "pg"])
            .args(args),
    )
}
