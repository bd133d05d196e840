//! Whether a failed transaction runs again, and what is counted.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Heard, deadlock, down, lost, queue_full, serialization, server};
use db_core::{
    Call, Error, GaveUp, LimitOrigin, Observers, QueryClass, RetryCause, SqlState, TimeoutError, TransactionAborted,
    config::Mode,
};
use db_retry::{Next, RetryConfig, RetryParts, RetryPolicy, Why};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, advance};

const BEFORE: bool = false;
const SENT: bool = true;

fn first(policy: &RetryPolicy, error: &Error, commit_sent: bool) -> Next {
    policy
        .transaction(&Call::default())
        .on_failure(error, commit_sent, Instant::now(), None)
}

fn reruns(next: Next) -> Option<RetryCause> {
    match next {
        Next::Rerun { cause, .. } => Some(cause),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_again() {
    let policy = RetryPolicy::default();
    for (error, cause) in [
        (deadlock(), RetryCause::Deadlock),
        (serialization(), RetryCause::SerializationFailure),
        (lost(), RetryCause::ConnectionLost),
        (down(), RetryCause::NotConnected),
        (server("25006"), RetryCause::WrongNode),
        (server("26000"), RetryCause::LostPlan),
        (
            TransactionAborted::StatementFailed(SqlState::DeadlockDetected).into(),
            RetryCause::Deadlock,
        ),
    ] {
        assert_eq!(reruns(first(&policy, &error, BEFORE)), Some(cause), "{error:?}");
    }
    for error in [deadlock(), serialization()] {
        assert!(
            reruns(first(&policy, &error, SENT)).is_some(),
            "the server has rolled back: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not() {
    let policy = RetryPolicy::default();
    let timeout = TimeoutError::new(QueryClass::Fast, LimitOrigin::Call, Duration::ZERO, Duration::ZERO);
    for error in [
        server("23505"),
        server("55P03"),
        server("57014"),
        queue_full(),
        timeout.into(),
    ] {
        assert_eq!(first(&policy, &error, BEFORE), Next::Fail(Why::Final), "{error:?}");
    }
    assert_eq!(
        first(&policy, &server("23505"), SENT),
        Next::Fail(Why::Final),
        "a deferred constraint"
    );
    for error in [lost(), server("57P01"), server("08007"), server("57014")] {
        assert_eq!(first(&policy, &error, SENT), Next::Unknown, "{error:?}");
    }
    let unknown = Error::CommitUnknown {
        source: Box::new(lost()),
    };
    assert_eq!(
        first(&policy, &unknown, BEFORE),
        Next::Unknown,
        "an error that knows better than the flag"
    );
    let once = policy
        .transaction(&Call::default())
        .run_once()
        .on_failure(&deadlock(), BEFORE, Instant::now(), None);
    assert_eq!(once, Next::Fail(Why::Final));
    let stats = policy.stats().transactions;
    assert_eq!(
        (stats.failed, stats.timed_out, stats.unknown, stats.ended()),
        (7, 2, 5, 12)
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_deadline_and_budget_end_it() {
    let heard = Arc::new(Heard::default());
    let observers = Observers::default();
    observers.add(heard.clone());
    let policy = {
        let config = RetryConfig {
            budget_floor: 1,
            budget_ratio: 0.01,
            ..RetryConfig::default()
        };
        RetryPolicy::new(config, observers).unwrap()
    };
    let mut tx = policy.transaction(&Call::default());
    for attempt in 1..3 {
        assert_eq!(tx.attempt(), attempt);
        let Next::Rerun { after, .. } = tx.on_failure(&deadlock(), BEFORE, Instant::now(), None) else {
            panic!()
        };
        assert!(after >= Duration::from_millis(14) * attempt && after <= Duration::from_millis(26) * attempt);
    }
    let gave_up = |reason| Next::Fail(Why::GaveUp(reason));
    assert_eq!(
        tx.on_failure(&deadlock(), BEFORE, Instant::now(), None),
        Next::Fail(Why::GaveUp(GaveUp::Attempts))
    );
    assert_eq!(
        heard.texts(),
        ["retried deadlock 1", "retried deadlock 2", "gave up attempts 3"]
    );

    let now = Instant::now();
    let soon = Some(now + Duration::from_millis(10));
    let mut tx = policy.transaction(&Call::default());
    assert_eq!(tx.on_failure(&deadlock(), BEFORE, now, soon), gave_up(GaveUp::Deadline));

    // What is left of the floor pays for deadlocks, a tenth each, but not for a lost connection.
    assert_eq!(first(&policy, &lost(), BEFORE), gave_up(GaveUp::Budget));
    let mut tx = policy.transaction(&Call::default()).with_max_attempts(2);
    assert!(reruns(tx.on_failure(&deadlock(), BEFORE, Instant::now(), None)).is_some());
    assert_eq!(
        tx.on_failure(&deadlock(), BEFORE, Instant::now(), None),
        Next::Fail(Why::GaveUp(GaveUp::Attempts))
    );
}

#[tokio::test(start_paused = true)]
async fn contended_transactions_are_not_starved_by_the_budget() {
    let policy = RetryPolicy::default();
    for _ in 0..500 {
        // Two tasks, of which one loses in every round.
        policy.transaction(&Call::default()).committed();
        let mut loser = policy.transaction(&Call::default());
        assert!(reruns(loser.on_failure(&deadlock(), BEFORE, Instant::now(), None)).is_some());
        loser.committed();
        advance(Duration::from_millis(30)).await;
    }
    let stats = policy.stats();
    assert_eq!(
        (stats.transactions.committed, stats.transactions.deadlocks),
        (1000, 500)
    );
    assert_eq!(
        (stats.transactions.attempts[0], stats.transactions.attempts[1]),
        (500, 500)
    );
    assert_eq!(stats.cause(RetryCause::Deadlock).retries, 500);
}

#[tokio::test(start_paused = true)]
async fn every_ending_is_counted_once_with_its_duration() {
    let policy = RetryPolicy::default();
    let mut tx = policy.transaction(&Call::default());
    advance(Duration::from_millis(100)).await;
    tx.committed();
    policy.transaction(&Call::default()).rolled_back();
    drop(policy.transaction(&Call::default()));
    let mut lost_at_commit = policy.transaction(&Call::default());
    assert_eq!(
        lost_at_commit.on_failure(&lost(), SENT, Instant::now(), None),
        Next::Unknown
    );
    drop(lost_at_commit);
    let stats = policy.stats().transactions;
    assert_eq!(
        (stats.committed, stats.rolled_back, stats.abandoned, stats.unknown),
        (1, 1, 1, 1)
    );
    assert_eq!((stats.ended(), stats.connection_losses), (4, 1));
    let max = stats.durations.unwrap().max;
    assert!(
        (Duration::from_millis(99)..=Duration::from_millis(101)).contains(&max),
        "{max:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn off_and_observe_run_nothing_again_and_still_tell_the_unknown() {
    for (mode, would) in [(Mode::Off, 0), (Mode::Observe, 1)] {
        let policy = RetryPolicy::new(
            RetryConfig {
                mode,
                ..RetryConfig::default()
            },
            Observers::default(),
        )
        .unwrap();
        assert_eq!(first(&policy, &deadlock(), BEFORE), Next::Fail(Why::Final));
        assert_eq!(first(&policy, &lost(), SENT), Next::Unknown);
        let stats = policy.stats();
        assert_eq!(
            (stats.retries(), stats.cause(RetryCause::Deadlock).would_retry),
            (0, would)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cause_from_elsewhere_is_judged_by_the_same_limits() {
    let policy = RetryPolicy::default();
    let mut tx = policy.transaction(&Call::default()).with_max_attempts(2);
    let now = Instant::now();
    assert_eq!(
        reruns(tx.on_cause(RetryCause::StalePlan, None, now, None)),
        Some(RetryCause::StalePlan)
    );
    assert_eq!(
        tx.on_cause(RetryCause::ConnectionLost, None, now, None),
        Next::Fail(Why::GaveUp(GaveUp::Attempts))
    );
    drop(tx);
    let mut fixed = policy.transaction(&Call::default()).run_once();
    assert_eq!(
        fixed.on_cause(RetryCause::ConnectionLost, None, now, None),
        Next::Fail(Why::Final)
    );
    assert_eq!(policy.stats().transactions.connection_losses, 2);
}

/// A standby refuses to write, and so does a transaction that was begun read-only: only the former is worth a try.
#[tokio::test(start_paused = true)]
async fn a_write_in_a_read_only_transaction_is_the_callers_mistake() {
    let policy = RetryPolicy::default();
    let refused = || server("25006");
    assert_eq!(reruns(first(&policy, &refused(), BEFORE)), Some(RetryCause::WrongNode));
    let mut tx = policy.transaction(&Call::default()).read_only();
    assert_eq!(
        tx.on_failure(&refused(), BEFORE, Instant::now(), None),
        Next::Fail(Why::Final)
    );
}

#[tokio::test(start_paused = true)]
async fn a_class_may_refuse_retries_and_a_stale_plan_heals_in_any() {
    let parts = || RetryParts {
        classes: Some(Arc::new(|class| class != QueryClass::Batch)),
        ..RetryParts::default()
    };
    let policy = RetryPolicy::with_parts(RetryConfig::default(), Observers::default(), parts()).unwrap();
    let batch = Call::default().with_class(QueryClass::Batch);
    let now = Instant::now();
    let next = policy.transaction(&batch).on_failure(&deadlock(), BEFORE, now, None);
    assert_eq!(next, Next::Fail(Why::Final));
    assert!(reruns(first(&policy, &deadlock(), BEFORE)).is_some(), "another class");
    let next = policy
        .transaction(&batch)
        .on_cause(RetryCause::StalePlan, None, now, None);
    assert_eq!(reruns(next), Some(RetryCause::StalePlan));
    let mut asked_for = policy.transaction(&batch).with_max_attempts(2);
    assert!(reruns(asked_for.on_failure(&deadlock(), BEFORE, now, None)).is_some());
}
