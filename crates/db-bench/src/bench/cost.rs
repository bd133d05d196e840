//! What the stack itself costs: time, allocations and instructions per call, with no server in the way.
//!
//! A `PgConnection` can't be made without a server, so one is opened once and handed out again and again, to an
//! operation that does nothing with it. The last two steps do go to the server: there only the allocations and the
//! instructions of this process count, and their difference is what `Db` adds to a bare connection.

mod bed;
mod instructions;

use super::{print::table, server::Target};
use alloc_counter::{AllocCounterSystem, count_alloc_future};
use anyhow::{Context, Result};
use bed::Bed;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::time::Instant;
use tokio::{runtime::Builder, task::spawn_blocking};

/// Counts per thread, two additions for each allocation: too little to be seen in the comparison with other pools.
#[global_allocator]
static COUNTER: AllocCounterSystem = AllocCounterSystem;

/// Batches per step; the fastest one counts, since nothing makes code faster than it is.
const BATCHES: u32 = 9;

/// What is repeated. Each one but the first of its group is the one above it and something more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// A source that hands one connection out again and again.
    FakeLease,
    /// `Run` over it: seam 1.
    FakeRun,
    /// The same behind one pointer and a boxed future, as the facade has it.
    FakeErased,
    /// `Run` of an operation that waits once, as every trip to a server does.
    FakeWait,
    /// The same under the timeout layer, as one known statement.
    FakeTimeout,
    /// A lease of the warm pool, taken and given back.
    PoolLease,
    /// `Run` over the warm pool.
    PoolRun,
    /// The same behind one pointer and a boxed future.
    PoolErased,
    /// A `Statement` made of an sqlx query with one argument.
    Statement,
    /// The same query through `Db::cached`, with its answer in memory.
    Hit,
    /// An sqlx query on a bare connection, with its trip to the server.
    Connection,
    /// The same query through `Db`.
    Db,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::FakeLease => "fake-lease",
            Self::FakeRun => "fake-run",
            Self::FakeErased => "fake-erased",
            Self::FakeWait => "fake-wait",
            Self::FakeTimeout => "fake-timeout",
            Self::PoolLease => "pool-lease",
            Self::PoolRun => "pool-run",
            Self::PoolErased => "pool-erased",
            Self::Statement => "statement",
            Self::Hit => "hit",
            Self::Connection => "connection",
            Self::Db => "db",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::FakeLease => "one connection handed out again and again",
            Self::FakeRun => "+ Run",
            Self::FakeErased => "+ erased facade",
            Self::FakeWait => "Run of something that waits once",
            Self::FakeTimeout => "+ timeout layer",
            Self::PoolLease => "warm pool: acquire and release",
            Self::PoolRun => "+ Run",
            Self::PoolErased => "+ erased facade",
            Self::Statement => "sqlx query into a Statement",
            Self::Hit => "the same query, answered by the cache",
            Self::Connection => "query on a bare connection (with its trip)",
            Self::Db => "the same through Db",
        }
    }

    /// Whether the server has a part in it: its time then says nothing about the stack.
    fn goes_to_the_server(self) -> bool {
        matches!(self, Self::Connection | Self::Db)
    }

    fn calls(self) -> u32 {
        if self.goes_to_the_server() { 500 } else { 20_000 }
    }
}

/// What one step costs per call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) step: String,
    pub(crate) nanos: Option<f64>,
    pub(crate) allocations: f64,
    pub(crate) instructions: Option<f64>,
}

/// Measures every step; with `instructions`, under valgrind as well.
pub(crate) async fn measure(target: &Target, instructions: bool) -> Result<Vec<Cost>> {
    eprintln!("cost of the stack alone");
    let options = target.sqlx_options()?;
    let mut costs = on_one_thread(options, async |bed| {
        let mut costs = Vec::new();
        for &step in Step::value_variants() {
            costs.push(cost(bed, step).await?);
        }
        Ok(costs)
    })
    .await?;
    if instructions {
        for (&step, cost) in Step::value_variants().iter().zip(&mut costs) {
            eprintln!("instructions of {} under valgrind", step.name());
            cost.instructions = Some(instructions::per_call(target, step).await?);
        }
    }
    Ok(costs)
}

/// Repeats one step and measures nothing: what runs under valgrind. `text` is `STEP:CALLS`.
pub(crate) async fn repeat(text: &str, options: PgConnectOptions) -> Result<()> {
    let (name, calls) = text.split_once(':').context("a probe is STEP:CALLS")?;
    let step = Step::from_str(name, false).map_err(anyhow::Error::msg)?;
    let calls = calls.parse()?;
    on_one_thread(options, async move |bed| bed.repeat(step, calls).await).await
}

/// Allocations are counted per thread and instructions per process: one thread, nothing else on it.
async fn on_one_thread<T, W>(options: PgConnectOptions, work: W) -> Result<T>
where
    T: Send + 'static,
    W: AsyncFnOnce(&mut Bed) -> Result<T> + Send + 'static,
{
    let thread = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut bed = Bed::make(options).await?;
            work(&mut bed).await
        })
    });
    thread.await.context("measuring the stack alone panicked")?
}

async fn cost(bed: &mut Bed, step: Step) -> Result<Cost> {
    let calls = step.calls();
    bed.repeat(step, calls / 10).await?;
    let (mut nanos, mut allocations) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..BATCHES {
        let started = Instant::now();
        let ((fresh, grown, _), done) = count_alloc_future(Box::pin(bed.repeat(step, calls))).await;
        done?;
        nanos = nanos.min(started.elapsed().as_nanos() as f64 / f64::from(calls));
        allocations = allocations.min((fresh + grown) as f64 / f64::from(calls));
    }
    Ok(Cost {
        step: step.name().to_owned(),
        nanos: (!step.goes_to_the_server()).then_some(nanos),
        allocations,
        instructions: None,
    })
}

/// The table, with lines for scripts below it.
pub(crate) fn print(costs: &[Cost]) {
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let mut table = table(&["cost per call, no server", "ns", "allocations", "instructions"]);
    for cost in costs {
        let what = Step::from_str(&cost.step, false).map_or("?", Step::what);
        table.add_row([
            what.to_owned(),
            figure(cost.nanos),
            format!("{:.2}", cost.allocations),
            figure(cost.instructions),
        ]);
    }
    println!("\n{table}\n");
    for cost in costs {
        println!("allocations {} {:.2}", cost.step, cost.allocations);
        if let Some(instructions) = cost.instructions {
            println!("instructions {} {instructions:.0}", cost.step);
        }
    }
}
