//! What the layer does with statements, call by call.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Heard, Script, Step, deadlock, down, lost, queue_full, read, server, write};
use db_core::{
    AcquireError, AcquireFailure, Call, Error, GaveUp, Layer, Observers, Operation, Result, RetryCause, Rows, Sent,
    Service, Statement, Want, config::Mode,
};
use db_retry::{Retry, RetryConfig, RetryLayer, RetryParts, RetryPolicy};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);

fn policy(config: RetryConfig) -> (RetryPolicy, Arc<Heard>) {
    let (observers, heard) = (Observers::default(), Arc::new(Heard::default()));
    observers.add(heard.clone());
    let parts = RetryParts {
        seed: Some(1),
        ..RetryParts::default()
    };
    (RetryPolicy::with_parts(config, observers, parts).unwrap(), heard)
}

fn stack(steps: impl IntoIterator<Item = Step>) -> (Retry<Arc<Script>>, Arc<Script>, RetryPolicy, Arc<Heard>) {
    let (policy, heard) = policy(RetryConfig::default());
    let script = Script::new(steps);
    (
        RetryLayer::new(policy.clone()).layer(script.clone()),
        script,
        policy,
        heard,
    )
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_sent_again_after_growing_pauses() {
    let (service, script, policy, heard) = stack([Step::Fail(down), Step::Fail(down), Step::Ok]);
    service.call(&Call::default(), &write()).await.unwrap();
    let gaps = script.gaps();
    assert!((35 * MS..=65 * MS).contains(&gaps[0]), "{gaps:?}");
    assert!((70 * MS..=132 * MS).contains(&gaps[1]), "{gaps:?}");
    assert_eq!(heard.texts(), ["retried not_connected 1", "retried not_connected 2"]);
    let stats = policy.stats();
    assert_eq!((stats.calls(), stats.succeeded(), stats.attempts[2]), (1, 1, 1));
    assert_eq!(stats.cause(RetryCause::NotConnected).retries, 2);
    assert_eq!(stats.cause(RetryCause::NotConnected).recovered, 1);
}

#[tokio::test(start_paused = true)]
async fn three_attempts_in_total() {
    let (service, script, policy, heard) = stack([Step::Fail(down)]);
    assert!(matches!(
        service.call(&Call::default(), &write()).await,
        Err(Error::Acquire(_))
    ));
    assert_eq!(script.calls(), 3);
    assert_eq!(heard.texts()[2], "gave up attempts 3");
    assert_eq!(policy.stats().gave_up(GaveUp::Attempts), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_run_is_never_repeated_unless_the_caller_allows_it() {
    let (service, script, _, heard) = stack([Step::Fail(lost), Step::Ok]);
    assert!(service.call(&Call::default(), &write()).await.is_err());
    assert_eq!(
        (script.calls(), heard.texts()),
        (1, vec!["gave up not_safe 1".to_owned()])
    );

    let (service, script, ..) = stack([Step::Fail(lost), Step::Ok]);
    service.call(&Call::default(), &read()).await.unwrap();
    assert_eq!(script.calls(), 2);

    let (service, script, ..) = stack([Step::Fail(lost), Step::Ok]);
    service
        .call(&Call::default().with_idempotent(), &write())
        .await
        .unwrap();
    assert_eq!(script.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_write_is_repeated_only_if_the_rejection_undid_it() {
    let (service, script, ..) = stack([Step::Fail(deadlock), Step::Ok]);
    service.call(&Call::default(), &write()).await.unwrap();
    assert!(
        (14 * MS..=26 * MS).contains(&script.gaps()[0]),
        "contention passes sooner: {:?}",
        script.gaps()
    );
    for sql in [
        "CALL settle()",
        "DO $$ BEGIN COMMIT; END $$",
        "INSERT INTO a VALUES (1); COMMIT; INSERT INTO b VALUES (1)",
        "CREATE INDEX CONCURRENTLY i ON a (b)",
    ] {
        let (service, script, ..) = stack([Step::Fail(deadlock), Step::Ok]);
        let text = Statement::new(sqlx::raw_sql(sql), Want::All).unwrap();
        assert!(service.call(&Call::default(), &text).await.is_err());
        assert_eq!(script.calls(), 1, "{sql}");
    }
}

#[tokio::test(start_paused = true)]
async fn sheds_and_errors_of_the_statement_are_final() {
    for error in [
        queue_full,
        || server("23505"),
        || server("57014"),
        || sqlx::Error::RowNotFound.into(),
    ] {
        let (service, script, policy, heard) = stack([Step::Fail(error), Step::Ok]);
        assert!(service.call(&Call::default(), &read()).await.is_err());
        assert_eq!((script.calls(), policy.stats().failed), (1, 1));
        assert!(heard.texts().is_empty(), "not worth telling");
    }
}

#[tokio::test(start_paused = true)]
async fn at_once_and_only_once_on_another_connection() {
    for code in [|| server("26000"), || server("57P05")] {
        let (service, script, ..) = stack([Step::Fail(code), Step::Ok]);
        service.call(&Call::default(), &write()).await.unwrap();
        assert_eq!(script.gaps(), [Duration::ZERO]);
        let (service, script, policy, _) = stack([Step::Fail(code)]);
        assert!(service.call(&Call::default(), &write()).await.is_err());
        assert_eq!((script.calls(), policy.stats().gave_up(GaveUp::Attempts)), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_pause_lasts_to_the_deadline() {
    let (service, script, policy, heard) = stack([Step::Slow(20 * MS, down)]);
    let start = Instant::now();
    // After 20 ms the pause would be 35 ms at least.
    let error = service
        .call(&Call::default().with_deadline(start + 50 * MS), &read())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Acquire(_)), "the last error, not a timeout");
    assert_eq!(start.elapsed(), 20 * MS, "at once");
    assert_eq!(
        (script.calls(), heard.texts()),
        (1, vec!["gave up deadline 1".to_owned()])
    );
    assert!(
        policy.budget().balance() >= 10.0,
        "nothing taken from those who have time"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_says_when_to_come_back_is_heard_and_nobody_comes_back_together() {
    fn asked() -> Error {
        let mut error = AcquireError::new(AcquireFailure::Down, Duration::ZERO);
        error.retry_after = Some(Duration::from_secs(2));
        error.into()
    }
    let (service, script, ..) = stack([Step::Fail(asked), Step::Ok]);
    service.call(&Call::default(), &write()).await.unwrap();
    let gap = script.gaps()[0];
    assert!((2035 * MS..=2065 * MS).contains(&gap), "{gap:?}");
    let (service, script, ..) = stack([Step::Fail(asked), Step::Ok]);
    let call = Call::default().with_deadline(Instant::now() + Duration::from_secs(2));
    assert!(service.call(&call, &write()).await.is_err());
    assert_eq!(script.calls(), 1, "it would be too late");
}

#[tokio::test(start_paused = true)]
async fn the_budget_ends_what_attempts_would_allow() {
    let (policy, heard) = policy(RetryConfig {
        budget_floor: 1,
        ..RetryConfig::default()
    });
    let script = Script::new([Step::Fail(down)]);
    let service = RetryLayer::new(policy.clone()).layer(script.clone());
    assert!(service.call(&Call::default(), &read()).await.is_err());
    assert_eq!((script.calls(), &*heard.texts()[1]), (2, "gave up budget 2"));
    // A few more calls, and there is enough for a deadlock, which costs a tenth.
    let calm = RetryLayer::new(policy.clone()).layer(Script::new([Step::Ok]));
    for _ in 0..5 {
        calm.call(&Call::default(), &read()).await.unwrap();
    }
    assert!(!policy.budget().has(1.0) && policy.budget().has(0.1));
}

#[tokio::test(start_paused = true)]
async fn observing_counts_and_touches_nothing_and_off_does_not_even_count() {
    let (policy, heard) = policy(RetryConfig {
        mode: Mode::Observe,
        ..RetryConfig::default()
    });
    let script = Script::new([Step::Fail(down), Step::Ok]);
    let service = RetryLayer::new(policy.clone()).layer(script.clone());
    assert!(service.call(&Call::default(), &read()).await.is_err());
    assert_eq!(
        (script.calls(), heard.texts()),
        (1, vec!["would retry not_connected 1".to_owned()])
    );
    let stats = policy.stats();
    assert_eq!(
        (stats.retries(), stats.cause(RetryCause::NotConnected).would_retry),
        (0, 1)
    );
    assert!(stats.budget >= 10.0, "asked, and not taken from");

    policy
        .reload(RetryConfig {
            mode: Mode::Off,
            ..RetryConfig::default()
        })
        .unwrap();
    service.call(&Call::default(), &read()).await.unwrap();
    assert_eq!(policy.stats(), stats, "off: as if it were not there");
    assert!(
        policy
            .reload(RetryConfig {
                jitter: 2.0,
                ..RetryConfig::default()
            })
            .is_err()
    );
    assert!(policy.config().mode.is_off(), "the settings in force stay");
}

/// A statement that has handed out its first row.
struct Begun(Statement);

impl Operation for Begun {
    type Output = Rows;

    async fn run(&self, _: &mut sqlx::PgConnection) -> Result<Rows> {
        unreachable!("the script answers")
    }

    fn replayable(&self) -> bool {
        false
    }

    fn facts(&self) -> Option<&Arc<db_core::StatementFacts>> {
        Some(self.0.facts())
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_repeated_once_a_row_has_been_handed_out() {
    let (service, script, policy, _) = stack([Step::Fail(lost), Step::Ok]);
    assert!(service.call(&Call::default(), &Begun(read())).await.is_err());
    assert_eq!((script.calls(), policy.stats().gave_up(GaveUp::NotSafe)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_error_that_says_it_may_have_run_is_not_hidden_by_one_that_was_not_sent() {
    let call = Call::default().with_idempotent();
    let (service, ..) = stack([Step::Fail(lost), Step::Fail(down)]);
    let error = service.call(&call, &write()).await.unwrap_err();
    assert!(matches!(error, Error::Network { sent: Sent::Maybe, .. }), "{error:?}");
    let (service, ..) = stack([Step::Fail(lost), Step::Fail(|| server("23505"))]);
    let error = service.call(&call, &write()).await.unwrap_err();
    assert!(matches!(error, Error::Server(_)), "an answer says more than a doubt");
}

#[tokio::test(start_paused = true)]
async fn the_layer_adds_little_to_the_future() {
    let (service, script, ..) = stack([Step::Ok]);
    let (call, statement) = (Call::default(), read());
    let own = size_of_val(&service.call(&call, &statement)) - size_of_val(&Service::call(&script, &call, &statement));
    println!("{own} bytes");
    assert!(own <= 512, "{own} bytes");
}
