//! What the layer adds to a call that ends in time, and what a million statements hold.
//!
//! `cargo run --release -p db-timeout --example cost`
//!
//! The inner service waits once, as every query does, so that the timer is really set. Each variant runs in turn with
//! the bare service; the figure is the difference of the fastest rounds, in nanoseconds per call. The bare service is at its
//! fastest before the first timer is set.

use db_core::{Call, Layer, Observers, Operation, Result, Service, StatementFacts, config::Mode, service_fn};
use db_timeout::{AdaptiveConfig, TimeoutConfig, TimeoutLayer};
use sqlx::PgConnection;
use std::{fs, time::Duration};
use tokio::{task::yield_now, time::Instant};

const CALLS: u32 = 10_000;
const ROUNDS: u32 = 200;
const STATEMENTS: u64 = 1_000_000;

struct Nothing;

impl Operation for Nothing {
    type Output = ();

    async fn run(&self, _: &mut PgConnection) -> Result<()> {
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let waits = service_fn(|_: Call| async {
        yield_now().await;
        Ok(())
    });
    let known = known(0);
    let fixed = layer(Mode::Enforce, Mode::Off);
    let learned = layer(Mode::Enforce, Mode::Enforce);
    let variants = [
        ("off", layer(Mode::Off, Mode::Off), call()),
        ("observe", layer(Mode::Observe, Mode::Off), known.clone()),
        ("enforce, no statement", fixed.clone(), call()),
        ("enforce, statement", fixed.clone(), known.clone()),
        ("enforce, statement, learned limit", learned, known.clone()),
    ];
    println!("the clock, read twice by each call: {} ns", clock().await);
    let mut bare = u128::MAX;
    for (name, layer, call) in variants {
        let service = layer.layer(waits);
        let mut with = u128::MAX;
        for _ in 0..ROUNDS {
            bare = bare.min(nanos(&waits, &call).await);
            with = with.min(nanos(&service, &call).await);
        }
        println!("{name:<36} {:>5} ns  ({with} - {bare})", with.saturating_sub(bare));
    }
    let service = fixed.layer(waits);
    let (bare, with) = (
        Service::<Nothing>::call(&waits, &known, &Nothing),
        service.call(&known, &Nothing),
    );
    println!(
        "future: {} bytes around one of {}",
        size_of_val(&with),
        size_of_val(&bare)
    );
    drop((bare, with));
    memory(waits).await
}

async fn memory(inner: impl Service<Nothing>) -> Result<(), Box<dyn std::error::Error>> {
    let config = TimeoutConfig::default();
    let most = config.max_statements;
    let layer = TimeoutLayer::new(config, Observers::default())?;
    let service = layer.layer(inner);
    let before = resident()?;
    for round in 0..3 {
        for n in 0..STATEMENTS {
            service.call(&known(n), &Nothing).await?;
        }
        let held = resident()?.saturating_sub(before);
        let (remembered, each) = (layer.stats().remembered(), held / most);
        println!("round {round}: {STATEMENTS} statements: {remembered} remembered, {held} bytes more, {each} for each");
    }
    Ok(())
}

fn call() -> Call {
    Call::here().with_timeout(Duration::from_secs(3))
}

fn layer(mode: Mode, adaptive: Mode) -> TimeoutLayer {
    let adaptive = AdaptiveConfig {
        mode: adaptive,
        ..AdaptiveConfig::default()
    };
    let config = TimeoutConfig {
        mode,
        adaptive,
        ..TimeoutConfig::default()
    };
    TimeoutLayer::new(config, Observers::default()).expect("valid")
}

async fn nanos(service: &impl Service<Nothing>, call: &Call) -> u128 {
    let start = Instant::now();
    for _ in 0..CALLS {
        service.call(call, &Nothing).await.expect("in time");
    }
    start.elapsed().as_nanos() / u128::from(CALLS)
}

async fn clock() -> u128 {
    let start = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_nanos() / u128::from(CALLS)
}

fn known(n: u64) -> Call {
    let mut call = call();
    // A table of its own makes a statement of its own.
    call.statement = Some(StatementFacts::of(&format!("SELECT 1 FROM t{n}")).fingerprint());
    call
}

/// Bytes of memory in use, on Linux.
fn resident() -> Result<usize, Box<dyn std::error::Error>> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = pages.split(' ').nth(1).ok_or("no resident pages")?.parse()?;
    Ok(pages * 4096)
}
