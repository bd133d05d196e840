//! What is remembered of statements stays bounded at any number of distinct ones.

use std::fs;

use anyhow::{Context, ensure};
use db_core::{Call, Layer, Observers, Result, Rows, Service, Statement, config::Mode, service_fn};
use db_timeout::{AdaptiveConfig, TimeoutConfig, TimeoutLayer};
use sqlx::AssertSqlSafe;

use crate::prove::{Verdict, findings::Findings};

/// The most that the process may grow: the statements that are remembered, the facts of the latest texts, and what the
/// allocator keeps.
const GROWTH_MIB: u64 = 64;

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let statements: usize = if quick { 200_000 } else { 1_000_000 };
    println!("{statements} distinct statements through the timeout layer, limits learned, no server needed");
    let config = TimeoutConfig {
        adaptive: AdaptiveConfig {
            mode: Mode::Enforce,
            ..AdaptiveConfig::default()
        },
        ..TimeoutConfig::default()
    };
    let most = config.max_statements;
    let layer = TimeoutLayer::new(config, Observers::default())?;
    let service = layer.layer(service_fn(|_: Call| std::future::ready(Result::Ok(Rows::default()))));
    let before = resident_mib()?;
    let mut peak = before;
    for number in 0..statements {
        let sql = format!("SELECT column_{number} FROM table_{number} WHERE id = $1");
        let statement = Statement::all(AssertSqlSafe(sql))?;
        let mut call = Call::here();
        call.statement = Some(statement.facts().fingerprint());
        service.call(&call, &statement).await?;
        if number % 10_000 == 0 {
            peak = peak.max(resident_mib()?);
            tokio::task::yield_now().await;
        }
    }
    let grown = peak.max(resident_mib()?).saturating_sub(before);
    let remembered = layer.stats().remembered();
    ensure!(remembered > 0, "nothing was remembered at all");
    let mut findings = Findings::new();
    findings.note("distinct statements", statements);
    findings.expect(
        "statements remembered",
        remembered,
        format!("<= {most}"),
        remembered <= most,
    );
    findings.expect(
        "memory grown by",
        format!("{grown} MiB"),
        format!("<= {GROWTH_MIB} MiB"),
        grown <= GROWTH_MIB,
    );
    Ok(findings.verdict())
}

/// The memory of this process, as the kernel counts it.
fn resident_mib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("this proof needs /proc, that is Linux")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}
