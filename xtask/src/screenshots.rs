//! `cargo xtask screenshots`: pictures of the live page under the demo's workload, for `docs/images/`.

use std::env;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cargo;

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    if !args.is_empty() {
        bail!("screenshots takes no arguments");
    }
    // Built first: the demo's time is to be spent on its work.
    for what in [
        ["--release", "--bin", "db-bench"].as_slice(),
        &["--example", "screenshots"],
    ] {
        let built = cargo::cargo_at_root()
            .args(["build", "--workspace"])
            .args(what)
            .status()?;
        if !built.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    // Free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| cargo::root().join("target"), PathBuf::from);
    let mut demo = Command::new(target.join("release/db-bench"))
        .args(["demo", "--for", "45s", "--listen", &format!("127.0.0.1:{port}")])
        .spawn()
        .context("the demo does not start")?;
    let taken = Command::new(target.join("debug/examples/screenshots"))
        .arg(format!("http://127.0.0.1:{port}/"))
        .arg(cargo::root().join("docs/images"))
        .status();
    // It cleans up after itself, and its own verdict is part of this one.
    let ended = demo.wait()?;
    Ok(if taken?.success() && ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
