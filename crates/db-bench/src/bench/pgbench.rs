//! `pgbench -M prepared -S`: what the server gives to a client in C that does nothing else.

use super::{
    sample::{Sample, histogram},
    server::Target,
};
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// Transactions per client before the rate is known.
const FIRST: u64 = 500;
/// The share of transactions whose latency is logged: all of them would be a load of its own.
const LOGGED: &str = "0.2";
/// A run that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// An installed pgbench.
#[derive(Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    /// Transactions per second of the last run, as bits: the next one is as long as wished.
    rate: AtomicU64,
}

impl Pgbench {
    /// The program, if there is one: `DB_STACK_PG_BIN`, `PATH`, then the usual folders.
    pub(crate) fn find(target: &Target) -> Option<Self> {
        let named = env::var_os("DB_STACK_PG_BIN")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from);
        let folders = match named {
            Some(dir) => vec![dir],
            None => env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .chain(usual_folders())
                .collect(),
        };
        let program = folders
            .into_iter()
            .map(|dir| dir.join("pgbench"))
            .find(|program| program.is_file())?;
        Some(Self {
            program,
            environment: target.libpq_environment(),
            rate: AtomicU64::new(0),
        })
    }

    /// The point select with `clients` connections for about `span`. Cancel safe: the program is killed.
    pub(crate) async fn run(&self, clients: u32, span: Duration, seed: u64) -> Result<Sample> {
        let rate = f64::from_bits(self.rate.load(Ordering::Relaxed));
        let wished = (rate * span.as_secs_f64() / f64::from(clients)) as u64;
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(&self.program);
        command
            .args(["-n", "-S", "-M", "prepared"])
            .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
            .args(["-t", &wished.max(FIRST).to_string()])
            .args(["--random-seed", &seed.to_string()])
            .args(["-l", "--sampling-rate", LOGGED, "--log-prefix"])
            .arg(dir.path().join("log"))
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(LIMIT, command.output())
            .await
            .context("pgbench did not end")??;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "pgbench: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let throughput = tps(&text).with_context(|| format!("no tps in what pgbench said: {text}"))?;
        self.rate.store(throughput.to_bits(), Ordering::Relaxed);
        let mut latencies = histogram()?;
        for entry in fs::read_dir(dir.path())? {
            for micros in logged_micros(&entry?.path())? {
                latencies.saturating_record(micros.saturating_mul(1_000));
            }
        }
        Ok(Sample {
            throughput,
            ..Sample::of(&latencies, span)
        })
    }
}

/// The rate in pgbench's summary, without the time that connecting took.
fn tps(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The third field of each line: microseconds of one transaction.
fn logged_micros(path: &Path) -> Result<Vec<u64>> {
    let text = fs::read_to_string(path)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
        .collect())
}

fn usual_folders() -> impl Iterator<Item = PathBuf> {
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort();
    let others = [
        "/usr/bin",
        "/usr/local/bin",
        "/opt/homebrew/bin",
        "/usr/local/opt/postgresql/bin",
    ];
    debian.into_iter().rev().chain(others.map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_found_in_the_summary() {
        let text = "latency average = 0.1 ms\ntps = 69012.500000 (without initial connection time)\n";
        assert_eq!(tps(text), Some(69012.5));
        assert_eq!(tps("nothing"), None);
    }
}
