//! However many distinct statements there are, only so many are remembered. `examples/cost.rs` does the same with
//! a million and shows the bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use db_core::{Call, Service, service_fn};
use db_timeout::TimeoutConfig;
use support::{Bench, Nothing, known};

/// Parsing them is what takes the time.
const STATEMENTS: u64 = 50_000;

#[tokio::test]
async fn any_number_of_statements_leaves_two_thousand() {
    let bench = Bench::new(TimeoutConfig::default());
    let service = bench.around(service_fn(|_: Call| async { Ok(()) }));
    let often = known(u64::MAX);
    for n in 0..STATEMENTS {
        service.call(&known(n), &Nothing).await.unwrap();
        if n % 100 == 0 {
            service.call(&often, &Nothing).await.unwrap();
        }
        if n % 10_000 == 0 {
            assert!(bench.layer.stats().remembered() <= 2000);
        }
    }
    let stats = bench.layer.stats();
    assert!((1000..=2000).contains(&stats.remembered()), "{}", stats.remembered());
    let often = stats
        .statement(often.statement.unwrap())
        .expect("one that is used stays");
    assert_eq!(often.counts.finished, STATEMENTS / 100);
    assert_eq!(stats.classes()[2].counts.finished, STATEMENTS + STATEMENTS / 100);
}

#[tokio::test]
async fn a_smaller_bound_applies_at_once() {
    let bench = Bench::new(TimeoutConfig::default());
    let service = bench.around(service_fn(|_: Call| async { Ok(()) }));
    for n in 0..2000 {
        service.call(&known(n), &Nothing).await.unwrap();
    }
    let mut config = bench.layer.config();
    config.max_statements = 100;
    bench.layer.reload(config).unwrap();
    assert!(
        bench.layer.stats().remembered() <= 200,
        "{}",
        bench.layer.stats().remembered()
    );
}
