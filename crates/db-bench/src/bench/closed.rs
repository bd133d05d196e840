//! The closed loop: so many tasks, each with the next call as soon as the last one has ended.

use super::{
    driver::Driver,
    sample::{Sample, cpu_nanos, histogram, nanos},
    scenario::Scenario,
};
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// One cell of the closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) scenario: Scenario,
    pub(crate) tasks: u32,
    /// What is measured, after the warm-up.
    pub(crate) span: Duration,
    /// The first calls pay for tests of idle connections and for cold caches: they are not counted.
    pub(crate) warm_up: Duration,
    /// The same for all subjects of a round: they look up the same keys.
    pub(crate) seed: u64,
}

/// Runs the cell. Dropping the future ends its tasks.
pub(crate) async fn run<D: Driver>(driver: &Arc<D>, cell: Closed) -> Result<Sample> {
    let from = Instant::now() + cell.warm_up;
    let until = from + cell.span;
    let mut tasks = JoinSet::new();
    for task in 0..u64::from(cell.tasks) {
        let driver = driver.clone();
        let random = fastrand::Rng::with_seed(cell.seed ^ (task << 32));
        tasks.spawn(async move { worker(&*driver, cell.scenario, random, from, until).await });
    }
    tokio::time::sleep_until(from.into()).await;
    let before = cpu_nanos();
    let mut all = histogram()?;
    while let Some(one) = tasks.join_next().await {
        all.add(one.context("a task of the closed loop panicked")??)?;
    }
    let cpu = (cpu_nanos() - before).checked_div(all.len());
    Ok(Sample {
        cpu,
        ..Sample::of(&all, cell.span)
    })
}

async fn worker<D: Driver>(
    driver: &D,
    scenario: Scenario,
    mut random: fastrand::Rng,
    from: Instant,
    until: Instant,
) -> Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    loop {
        let started = Instant::now();
        driver.once(scenario, scenario.key(&mut random)).await?;
        let ended = Instant::now();
        if ended > until {
            return Ok(latencies);
        }
        if ended > from {
            latencies.saturating_record(nanos(ended - started));
        }
    }
}
