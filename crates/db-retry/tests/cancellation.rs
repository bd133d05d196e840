//! A call that is dropped, at every await that it has.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Script, Step, down, read};
use db_core::{Call, Layer, Observers, Service};
use db_retry::{RetryConfig, RetryLayer, RetryParts, RetryPolicy, around};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const MS: Duration = Duration::from_millis(1);

fn policy() -> RetryPolicy {
    let parts = RetryParts {
        seed: Some(3),
        ..RetryParts::default()
    };
    RetryPolicy::with_parts(RetryConfig::default(), Observers::default(), parts).unwrap()
}

#[tokio::test(start_paused = true)]
async fn dropped_in_an_attempt_or_in_a_pause_it_does_nothing_more() {
    let slow = || [Step::Slow(10 * MS, down)];
    let (mut in_attempts, mut in_pauses) = (0, 0);
    for patience in 0..250 {
        let (policy, script) = (policy(), Script::new(slow()));
        let service = RetryLayer::new(policy.clone()).layer(script.clone());
        let out = timeout(patience * MS, service.call(&Call::default(), &read())).await;
        let (calls, stats) = (script.calls(), policy.stats());
        assert_eq!(stats.calls(), 1, "each call ends once");
        assert_eq!(stats.abandoned, u64::from(out.is_err()));
        assert_eq!(stats.attempts[calls - 1], 1, "{stats:?}");
        assert_eq!(stats.retries(), stats.retries().min(2));
        assert!(stats.budget >= 8.0);
        let (in_pause, _) = (stats.retries() as usize == calls, ());
        *if in_pause { &mut in_pauses } else { &mut in_attempts } += u32::from(out.is_err());
        sleep(Duration::from_secs(5)).await;
        assert_eq!(script.calls(), calls, "nothing runs on");
    }
    assert!(
        in_attempts >= 20 && in_pauses >= 80,
        "both were met: {in_attempts}, {in_pauses}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_or_was_never_polled() {
    let (policy, script) = (policy(), Script::new([Step::Hang]));
    let service = RetryLayer::new(policy.clone()).layer(script.clone());
    drop(service.call(&Call::default(), &read()));
    assert_eq!((policy.stats().calls(), script.calls()), (0, 0));
    assert!(timeout(MS, service.call(&Call::default(), &read())).await.is_err());
    assert_eq!((policy.stats().abandoned, script.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_loop_around_a_closure_and_a_transaction_likewise() {
    let (policy, script) = (policy(), Script::new([Step::Slow(10 * MS, down)]));
    for patience in [0, 5, 20, 100] {
        let calls = script.calls();
        assert!(timeout(patience * MS, around(&policy, || script.step())).await.is_err());
        assert!(script.calls() > calls);
    }
    assert_eq!(policy.stats().abandoned, 4);
    drop(policy.transaction(&Call::default()));
    assert_eq!(policy.stats().transactions.abandoned, 1);
}
