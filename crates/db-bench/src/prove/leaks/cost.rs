//! What keeping account costs per checkout.

use std::{hint::black_box, str::FromStr, time::Instant};

use alloc_counter::count_alloc_future;
use anyhow::Context;
use db_core::{Call, Layer, Source};
use db_leak::LeakLayer;
use db_pool::{Pool, PoolConfig};
use sqlx::postgres::PgConnectOptions;
use tokio::{runtime::Builder, task::spawn_blocking};

use crate::prove::findings::Findings;

/// The promise, in nanoseconds.
const PROMISED: f64 = 50.0;
/// Half a millisecond's worth: on a busy machine some rounds are over before anybody else gets the processor.
const CALLS: u32 = 2_000;

/// The fastest of many rounds in turn, since nothing makes code faster than it is; on one thread, as a checkout without
/// contention is.
pub(super) async fn run(url: &str, quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let options = PgConnectOptions::from_str(url)?;
    let rounds = if quick { 600 } else { 4_000 };
    let measured = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(options, rounds))
    });
    let (bare, tracked, allocations) = measured.await.context("the measurement panicked")??;
    let cost = tracked - bare;
    findings.note("checkout and return, bare", format!("{bare:.0} ns"));
    findings.note("the same with account kept", format!("{tracked:.0} ns"));
    let text = format!("{cost:.0} ns");
    if quick {
        findings.note("tracking costs", text);
    } else {
        findings.expect("tracking costs", text, format!("< {PROMISED:.0} ns"), cost < PROMISED);
    }
    findings.expect("allocations per checkout for it", allocations, "0", allocations == 0);
    Ok(())
}

async fn measure(options: PgConnectOptions, rounds: u32) -> anyhow::Result<(f64, f64, u64)> {
    let pool = Pool::builder(options, PoolConfig::default()).build()?;
    let leak = LeakLayer::default().layer(pool.clone());
    let call = Call::here();
    let (mut bare, mut tracked) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        bare = bare.min(nanos(&pool, &call).await?);
        tracked = tracked.min(nanos(&leak, &call).await?);
    }
    let (bare_allocations, tracked_allocations) = (allocations(&pool, &call).await?, allocations(&leak, &call).await?);
    pool.close().await;
    Ok((bare, tracked, tracked_allocations.saturating_sub(bare_allocations)))
}

async fn nanos(source: &impl Source, call: &Call) -> anyhow::Result<f64> {
    let started = Instant::now();
    repeat(source, call).await?;
    Ok(started.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

/// Allocations per call, rounded down: what happens once in a while is no part of a checkout.
async fn allocations(source: &impl Source, call: &Call) -> anyhow::Result<u64> {
    let ((fresh, grown, _), done) = count_alloc_future(Box::pin(repeat(source, call))).await;
    done?;
    Ok((fresh + grown) as u64 / u64::from(CALLS))
}

async fn repeat(source: &impl Source, call: &Call) -> anyhow::Result<()> {
    for _ in 0..CALLS {
        drop(black_box(source.acquire(call).await?));
    }
    Ok(())
}
