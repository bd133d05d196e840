//! Many callers at once: what they cost a server that is down, and whether they come back together.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{down, read};
use db_core::{Call, Layer, Observers, RetryCause, Rows, Service, service_fn};
use db_retry::{RetryConfig, RetryLayer, RetryParts, RetryPolicy};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, interval, sleep};

fn seeded(config: RetryConfig, seed: u64) -> RetryPolicy {
    let parts = RetryParts {
        seed: Some(seed),
        ..RetryParts::default()
    };
    RetryPolicy::with_parts(config, Observers::default(), parts).unwrap()
}

/// Calls per second, each in a task of its own.
const RATE: u64 = 400;

#[tokio::test(start_paused = true)]
async fn a_total_outage_of_ten_seconds_costs_at_most_a_tenth_more() {
    for (healthy, seed) in [(0, 1), (20, 2), (60, 3)] {
        let policy = seeded(RetryConfig::default(), seed);
        let (up, attempts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let server = {
            let (up, attempts) = (up.clone(), attempts.clone());
            service_fn(move |_: Call| {
                let (up, attempts) = (up.clone(), attempts.clone());
                async move {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(2)).await;
                    if up.load(Ordering::Relaxed) {
                        Ok(Rows::default())
                    } else {
                        Err(down())
                    }
                }
            })
        };
        let service = Arc::new(RetryLayer::new(policy.clone()).layer(server));
        let failed = Arc::new(AtomicU64::new(0));
        let run = async |seconds: u64| {
            let mut tick = interval(Duration::from_micros(1_000_000 / RATE));
            for _ in 0..seconds * RATE {
                tick.tick().await;
                let (service, failed) = (service.clone(), failed.clone());
                tokio::spawn(async move {
                    let call = Call::default().with_deadline(Instant::now() + Duration::from_secs(1));
                    let out = service.call(&call, &read()).await;
                    failed.fetch_add(u64::from(out.is_err()), Ordering::Relaxed);
                });
            }
        };
        run(healthy).await;
        sleep(Duration::from_millis(10)).await;
        up.store(false, Ordering::Relaxed);
        let before = attempts.swap(0, Ordering::Relaxed);
        assert_eq!(before, healthy * RATE);
        run(10).await;
        sleep(Duration::from_millis(10)).await;
        let amplification = attempts.load(Ordering::Relaxed) as f64 / (10 * RATE) as f64;
        println!("{healthy} s healthy: {amplification:.3} attempts per call");
        assert!(amplification <= 1.1, "{amplification} attempts per call");
        assert!(amplification >= 1.05, "the budget is there to be used: {amplification}");

        // Back up: the next second has no trace of it.
        sleep(Duration::from_secs(1)).await;
        up.store(true, Ordering::Relaxed);
        failed.store(0, Ordering::Relaxed);
        run(1).await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(failed.load(Ordering::Relaxed), 0);
    }
}

/// When 200 clients that fail at one moment try for the second and the third time.
async fn attempt_times(config: RetryConfig, seed: u64) -> [Vec<u128>; 2] {
    let policy = seeded(
        RetryConfig {
            budget_floor: 1000,
            ..config
        },
        seed,
    );
    let times = Arc::new(Mutex::new(Vec::new()));
    let start = Instant::now();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let times = times.clone();
            let mine = Arc::new(AtomicU64::new(0));
            let server = service_fn(move |_: Call| {
                let (times, nth) = (times.clone(), mine.fetch_add(1, Ordering::Relaxed));
                async move {
                    times.lock().unwrap().push((nth, start.elapsed().as_millis()));
                    Err::<Rows, _>(down())
                }
            });
            let service = RetryLayer::new(policy.clone()).layer(server);
            tokio::spawn(async move { service.call(&Call::default(), &read()).await.unwrap_err() })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(policy.stats().cause(RetryCause::NotConnected).retries, 400);
    let of = |wanted| {
        times
            .lock()
            .unwrap()
            .iter()
            .filter(|(nth, _)| *nth == wanted)
            .map(|(_, ms)| *ms)
            .collect()
    };
    [of(1), of(2)]
}

/// The most that share one millisecond, and how many milliseconds are used.
fn crowd(times: &[u128]) -> (usize, usize) {
    let mut counts = std::collections::BTreeMap::new();
    for time in times {
        *counts.entry(time).or_insert(0) += 1;
    }
    (counts.values().copied().max().unwrap(), counts.len())
}

#[tokio::test(start_paused = true)]
async fn clients_that_fail_together_do_not_come_back_together() {
    for seed in 0..20 {
        // +-30 % of 50 ms is a span of 30 ms, so 200 clients are 6.7 in a millisecond on average; 20 would be one in a
        // hundred thousand.
        let [second, third] = attempt_times(RetryConfig::default(), seed).await;
        let (most, used) = crowd(&second);
        assert!(
            most <= 20 && used >= 25,
            "seed {seed}: {most} in one millisecond, {used} milliseconds"
        );
        let (most, used) = crowd(&third);
        assert!(
            most <= 15 && used >= 50,
            "seed {seed}: {most} in one millisecond, {used} milliseconds"
        );

        let wide = RetryConfig {
            strategy: db_retry::Strategy::Decorrelated,
            ..RetryConfig::default()
        };
        let [second, _] = attempt_times(wide, seed).await;
        let (most, used) = crowd(&second);
        assert!(
            most <= 12 && used >= 70,
            "seed {seed}: {most} in one millisecond, {used} milliseconds"
        );
    }
}
