//! The dependency rules of `deny.toml`: licences, bans and sources without a network, advisories where it reaches.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;

use crate::cargo;
use crate::check::Outcome;
use crate::child;

const MISSING: &str = "cargo-deny (install with cargo install cargo-deny --locked)";
/// The advisory database is a git repository; a firewall that drops packets must not hold up the check.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn offline() -> Result<Outcome> {
    if !cargo::has("deny") {
        return Ok(Outcome::Missing(MISSING.to_owned()));
    }
    Outcome::of_command(cargo::cargo_at_root().args([
        "deny",
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))
}

pub(crate) fn advisories() -> Result<Outcome> {
    if !cargo::has("deny") {
        return Ok(Outcome::Missing(MISSING.to_owned()));
    }
    // Fetched apart from the check: only so can "not reachable" be told from "found something".
    let mut fetch = cargo::cargo_at_root();
    fetch
        .args(["deny", "fetch", "db"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !child::run_within(&mut fetch, FETCH_LIMIT)?.success() {
        let why = "advisories: the advisory database can't be reached from here (cargo deny fetch db says why); \
                   run cargo deny check advisories where it can";
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    Outcome::of_command(cargo::cargo_at_root().args(["deny", "--offline", "check", "advisories"]))
}
