//! The bounds of every pause.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_retry::{BackoffPolicy, Decorrelated, Delays, Exponential, Pace};
use proptest::prelude::*;
use std::time::Duration;

const PACES: [Pace; 3] = [Pace::Contention, Pace::Connection, Pace::Overload];

fn delays() -> impl Strategy<Value = Delays> {
    let time = || (0u64..5_000_000_000).prop_map(Duration::from_nanos);
    (time(), time(), time(), time()).prop_map(|(contention, connection, overload, cap)| Delays {
        contention,
        connection,
        overload,
        cap,
    })
}

fn first(delays: &Delays, pace: Pace) -> Duration {
    match pace {
        Pace::Contention => delays.contention,
        Pace::Overload => delays.overload,
        _ => delays.connection,
    }
}

proptest! {
    #[test]
    fn exponential_pauses_lie_around_the_interval_and_below_the_cap(
        delays in delays(),
        multiplier in 1.0..10.0f64,
        jitter in 0.0..=1.0f64,
        seed: u64,
        pace in prop::sample::select(&PACES),
        skipped in 0u32..3,
    ) {
        let mut pauses = Exponential::new(delays, multiplier, jitter).start(pace, seed);
        let ceiling = delays.cap.as_secs_f64() / (1.0 + jitter);
        for attempt in (1 + skipped)..12 {
            let pause = pauses.next(attempt).unwrap();
            let grown = first(&delays, pace).as_secs_f64() * multiplier.powi(attempt as i32 - 1);
            let interval = grown.min(ceiling);
            let off = 1e-6 * interval + 2e-8; // nanoseconds are cut off in each step
            prop_assert!(pause <= delays.cap);
            prop_assert!(pause.as_secs_f64() <= interval * (1.0 + jitter) + off, "{pause:?} {interval}");
            prop_assert!(pause.as_secs_f64() >= interval * (1.0 - jitter) - off - 1e-8 * grown, "{pause:?} {interval}");
        }
    }

    #[test]
    fn decorrelated_pauses_lie_between_the_base_and_three_times_the_one_before(
        delays in delays(),
        seed: u64,
        pace in prop::sample::select(&PACES),
    ) {
        let mut pauses = Decorrelated::new(delays).start(pace, seed);
        let base = first(&delays, pace).min(delays.cap);
        let mut before = base;
        for attempt in 1..20 {
            let pause = pauses.next(attempt).unwrap();
            prop_assert!(base <= pause && pause <= delays.cap.min(before * 3));
            before = pause;
        }
    }

    #[test]
    fn nonsense_does_no_harm(multiplier: f64, jitter: f64, nanos: u64, seed: u64, attempt: u32) {
        let time = Duration::from_nanos(nanos).saturating_mul(1000);
        let delays = Delays { contention: time, connection: time, overload: time, cap: Duration::MAX };
        for pace in PACES {
            let pause = Exponential::new(delays, multiplier, jitter).start(pace, seed).next(attempt);
            prop_assert!(pause.unwrap() <= Duration::from_secs(24 * 3600));
            prop_assert!(Decorrelated::new(delays).start(pace, seed).next(attempt).is_some());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_pauses() {
    for policy in [&Exponential::default() as &dyn BackoffPolicy, &Decorrelated::default()] {
        let pauses = |seed| {
            let mut pauses = policy.start(Pace::Connection, seed);
            (1..5).map(|attempt| pauses.next(attempt).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}

#[test]
fn pauses_are_longer_as_often_as_shorter() {
    let pauses = |seed| Exponential::default().start(Pace::Connection, seed).next(1).unwrap();
    let middle = Duration::from_millis(50);
    let longer = (0..10_000).filter(|seed| pauses(*seed) > middle).count();
    assert!((4_700..5_300).contains(&longer), "{longer} of 10000");
}
