//! The loop around closures, with errors of the caller's own and of the stack.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{deadlock, down, lost};
use db_core::{Error, GaveUp, Observers, RetryCause, config::Mode};
use db_retry::{RetryConfig, RetryPolicy, Retryable, Verdict, around, around_until};
use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

#[derive(Debug, PartialEq)]
enum Mail {
    Greylisted,
    NoSuchUser,
}

impl Retryable for Mail {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Greylisted => Verdict::Backoff(RetryCause::Caller),
            Self::NoSuchUser => Verdict::Never,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }
}

#[tokio::test(start_paused = true)]
async fn a_classification_of_the_callers_own() {
    let (policy, tries) = (RetryPolicy::default(), Cell::new(0));
    let send = |fails: u32, error: fn() -> Mail| {
        let tries = &tries;
        move || async move {
            tries.set(tries.get() + 1);
            if tries.get() > fails {
                Ok(tries.get())
            } else {
                Err(error())
            }
        }
    };
    let start = Instant::now();
    assert_eq!(around(&policy, send(1, || Mail::Greylisted)).await, Ok(2));
    assert!(start.elapsed() >= Duration::from_secs(60));
    tries.set(0);
    assert_eq!(
        around(&policy, send(9, || Mail::NoSuchUser)).await,
        Err(Mail::NoSuchUser)
    );
    assert_eq!(tries.get(), 1);
    tries.set(0);
    let deadline = Instant::now() + Duration::from_secs(30);
    assert_eq!(
        around_until(&policy, deadline, send(9, || Mail::Greylisted)).await,
        Err(Mail::Greylisted)
    );
    assert_eq!((tries.get(), policy.stats().gave_up(GaveUp::Deadline)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn of_the_stacks_own_errors_only_what_was_not_sent() {
    let policy = RetryPolicy::default();
    for (error, wanted) in [
        (down as fn() -> Error, 3),
        (lost, 1),
        (deadlock, 1),
        (|| common::server("26000"), 1),
    ] {
        let tries = Cell::new(0);
        let out: Result<(), Error> = around(&policy, || {
            tries.set(tries.get() + 1);
            async { Err(error()) }
        })
        .await;
        assert!(out.is_err());
        assert_eq!(tries.get(), wanted, "{:?}", error());
    }
}

#[tokio::test(start_paused = true)]
async fn off_calls_once_and_a_spawned_task_may_use_it() {
    let off = RetryConfig {
        mode: Mode::Off,
        ..RetryConfig::default()
    };
    let policy = RetryPolicy::new(off, Observers::default()).unwrap();
    let spawned = tokio::spawn(async move { around(&policy, || async { Err::<(), _>(down()) }).await.is_err() });
    assert!(spawned.await.unwrap());
}
