//! The open loop: calls arrive on a schedule, whether or not the earlier ones have ended, as they do in a service.
//!
//! Latency counts from the instant at which the call should have started, so a subject that stalls pays for every
//! arrival behind the stall (no coordinated omission).

use super::{
    alarm::Alarm,
    driver::Driver,
    sample::{Sample, histogram, nanos},
    scenario::Scenario,
};
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

/// Calls that may be outstanding. Arrivals above it wait, and their wait counts; below every pool's limit of waiters.
const OUTSTANDING: usize = 512;
/// A subject that can't keep up gets this many times the cell's length to work off what has arrived.
const PATIENCE: u32 = 20;

/// One cell of the open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) scenario: Scenario,
    /// Arrivals in a second.
    pub(crate) rate: f64,
    pub(crate) span: Duration,
    pub(crate) warm_up: Duration,
    /// The same for all subjects of a round: the same keys at the same instants.
    pub(crate) seed: u64,
}

/// Runs the cell. Dropping the future ends its calls.
pub(crate) async fn run<D: Driver>(driver: &Arc<D>, cell: Open) -> Result<Sample> {
    // A task of the runtime, so that an arrival reaches a worker the way a request on a socket does.
    let mut arrivals = JoinSet::new();
    arrivals.spawn(Arrivals::new(driver.clone(), cell)?.run());
    let limit = (cell.warm_up + cell.span) * PATIENCE;
    let outcome = timeout(limit, arrivals.join_next())
        .await
        .context("the backlog was not worked off")?;
    outcome
        .context("nothing arrived")?
        .context("a task of the open loop panicked")?
}

/// Arrivals with exponential gaps, which is what many independent callers look like.
struct Arrivals<D> {
    driver: Arc<D>,
    cell: Open,
    random: fastrand::Rng,
    calls: JoinSet<Result<Option<Duration>>>,
    latencies: Histogram<u64>,
}

impl<D: Driver> Arrivals<D> {
    fn new(driver: Arc<D>, cell: Open) -> Result<Self> {
        Ok(Self {
            driver,
            cell,
            random: fastrand::Rng::with_seed(cell.seed),
            calls: JoinSet::new(),
            latencies: histogram()?,
        })
    }

    async fn run(mut self) -> Result<Sample> {
        let mut alarm = Alarm::new()?;
        let begin = Instant::now();
        let counted = begin + self.cell.warm_up;
        let end = counted + self.cell.span;
        let mut due = begin + self.gap();
        while due < end {
            if due > Instant::now() {
                alarm.ring_at(due).await?;
            }
            while let Some(ended) = self.calls.try_join_next() {
                self.note(ended)?;
            }
            while self.calls.len() >= OUTSTANDING {
                let ended = self.calls.join_next().await;
                ended.map_or(Ok(()), |ended| self.note(ended))?;
            }
            self.arrive(due, counted);
            due += self.gap();
        }
        while let Some(ended) = self.calls.join_next().await {
            self.note(ended)?;
        }
        Ok(Sample {
            offered: Some(self.cell.rate),
            ..Sample::of(&self.latencies, counted.elapsed())
        })
    }

    fn gap(&mut self) -> Duration {
        // 1 - f64() is never zero, so its logarithm is finite.
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / self.cell.rate)
    }

    fn arrive(&mut self, due: Instant, counted: Instant) {
        let driver = self.driver.clone();
        let scenario = self.cell.scenario;
        let key = scenario.key(&mut self.random);
        self.calls.spawn(async move {
            driver.once(scenario, key).await?;
            Ok((due >= counted).then(|| due.elapsed()))
        });
    }

    fn note(&mut self, ended: Result<Result<Option<Duration>>, JoinError>) -> Result<()> {
        if let Some(latency) = ended.context("a call panicked")?? {
            self.latencies.saturating_record(nanos(latency));
        }
        Ok(())
    }
}
