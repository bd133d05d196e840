//! What the budget promises, for any order of calls, retries and pauses.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_retry::RetryBudget;
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::advance;

#[derive(Clone, Debug)]
enum Act {
    Calls(u32),
    Retries(u32),
    Pause(Duration),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (1u32..500).prop_map(Act::Calls),
        (1u32..100).prop_map(Act::Retries),
        (0u64..3000).prop_map(|ms| Act::Pause(Duration::from_millis(ms))),
    ];
    prop::collection::vec(act, 1..60)
}

fn paused<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    #[test]
    fn retries_never_exceed_the_floor_and_the_share(
        acts in acts(),
        ratio in 0.0..=1.0f64,
        floor in 0u32..50,
    ) {
        paused(async {
            let budget = RetryBudget::new(ratio, floor.into(), Duration::from_secs(10));
            let (mut calls, mut retries) = (0u32, 0u32);
            for act in acts {
                match act {
                    Act::Calls(count) => (0..count).for_each(|_| {
                        calls += 1;
                        budget.deposit();
                    }),
                    Act::Retries(count) => {
                        retries += (0..count).map(|_| u32::from(budget.try_withdraw(1.0))).sum::<u32>();
                    }
                    Act::Pause(time) => advance(time).await,
                }
                let balance = budget.balance();
                prop_assert!(balance >= 0.0);
                let most = f64::from(floor) + ratio * f64::from(calls);
                prop_assert!(f64::from(retries) + balance <= most + 1e-6, "{retries} + {balance} > {most}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_steady_outage_of_one_span_or_longer_costs_no_more_than_the_share(
        rate in 120u32..2_000,
        healthy in 0u32..40,
        outage in 10u32..30,
        ratio in 0.05..0.3f64,
    ) {
        // From 11 * floor / ratio calls on: the floor of 10 is then within the share.
        let calls = rate * outage;
        prop_assume!(f64::from(calls) >= 110.0 / ratio);
        paused(async {
            let budget = RetryBudget::new(ratio, 10.0, Duration::from_secs(10));
            for _ in 0..healthy * 10 {
                (0..rate / 10).for_each(|_| budget.deposit());
                advance(Duration::from_millis(100)).await;
            }
            let mut retries = 0;
            for _ in 0..outage * 10 {
                for _ in 0..rate / 10 {
                    budget.deposit();
                    retries += (0..2).map(|_| u32::from(budget.try_withdraw(1.0))).sum::<u32>();
                }
                advance(Duration::from_millis(100)).await;
            }
            let calls = f64::from(rate / 10 * outage * 10);
            // One step of the loop comes in at once, not evenly.
            let step = ratio * f64::from(rate / 10);
            prop_assert!(f64::from(retries) <= ratio * calls + step, "{retries} retries for {calls} calls");
            Ok(())
        })?;
    }
}

#[test]
fn what_nobody_needs_expires_down_to_the_floor_and_time_adds_nothing() {
    paused(async {
        let budget = RetryBudget::new(0.1, 10.0, Duration::from_secs(10));
        (0..11_000).for_each(|_| budget.deposit());
        assert!((budget.balance() - 1010.0).abs() < 1e-6);
        advance(Duration::from_secs(1)).await;
        assert!((budget.balance() - 1010.0 / std::f64::consts::E).abs() < 1e-6);
        advance(Duration::from_secs(60)).await;
        assert_eq!(budget.balance(), 10.0);
        assert!((0..10).all(|_| budget.try_withdraw(1.0)));
        advance(Duration::from_secs(3600)).await;
        assert!(!budget.try_withdraw(1.0));
        assert!(budget.try_withdraw(0.0), "a stale plan costs nothing");
    });
}

#[test]
fn clones_share_one_purse_across_threads() {
    let budget = RetryBudget::new(0.0, 100.0, Duration::from_secs(10));
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..100).filter(|_| budget.clone().try_withdraw(1.0)).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 100);
    for nonsense in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(RetryBudget::new(nonsense, nonsense, Duration::ZERO).balance(), 0.0);
        assert!(!budget.try_withdraw(f64::NAN));
    }
}
