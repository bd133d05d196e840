//! When a call is ended, and with which error.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use db_core::{
    AcquireError, AcquireFailure, Call, Error, LimitOrigin, QueryClass, Result, Sent, Service, config::Mode, service_fn,
};
use db_timeout::{ClassLimits, TimeoutConfig, TimeoutLayer};
use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use support::{Bench, Nothing, known, ms, takes, timeout_of};
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(3600);

fn observing() -> TimeoutConfig {
    TimeoutConfig {
        mode: Mode::Observe,
        ..TimeoutConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn each_class_has_its_own_limit() {
    let mut config = TimeoutConfig::default();
    config.custom.insert(
        "nightly".into(),
        ClassLimits {
            timeout: ms(600_000),
            ..ClassLimits::BATCH
        },
    );
    let service = Bench::new(config).around(takes(LONG));
    for (class, limit) in [
        (QueryClass::Instant, 200),
        (QueryClass::Fast, 1_000),
        (QueryClass::Normal, 5_000),
        (QueryClass::Slow, 15_000),
        (QueryClass::Batch, 120_000),
        (QueryClass::Custom("nightly"), 600_000),
        (QueryClass::Custom("unheard of"), 5_000),
    ] {
        let start = Instant::now();
        let error = timeout_of(service.call(&known(1).with_class(class), &Nothing).await.unwrap_err());
        let late = start.elapsed() - ms(limit);
        assert!(late <= ms(2), "{class:?}: {late:?}");
        assert_eq!(
            (error.class, error.limit, error.origin),
            (class, ms(limit), LimitOrigin::Class)
        );
        assert_eq!(
            (error.statement, error.sent, error.elapsed),
            (known(1).statement, Sent::Maybe, start.elapsed())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_nearest_limit_wins_and_is_handed_down() {
    let handed = service_fn(|call: Call| async move {
        sleep(call.deadline.expect("the layer sets one") - Instant::now()).await;
        pending::<Result<()>>().await
    });
    let service = Bench::new(TimeoutConfig::default()).around(handed);
    let now = Instant::now();
    for (call, limit, origin) in [
        (Call::here(), 5_000, LimitOrigin::Class),
        (Call::here().with_timeout(ms(700)), 700, LimitOrigin::Call),
        (
            Call::here().with_timeout(ms(700)).with_timeout(ms(900)),
            700,
            LimitOrigin::Call,
        ),
        (Call::here().with_timeout(ms(90_000)), 5_000, LimitOrigin::Class),
    ] {
        let error = timeout_of(service.call(&call, &Nothing).await.unwrap_err());
        assert_eq!((error.limit, error.origin), (ms(limit), origin));
    }
    let call = Call::here()
        .with_timeout(ms(700))
        .with_deadline(Instant::now() + ms(30));
    let error = timeout_of(service.call(&call, &Nothing).await.unwrap_err());
    assert_eq!((error.limit, error.origin), (ms(30), LimitOrigin::Deadline));
    assert!(now.elapsed() < ms(11_500));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_has_passed_refuses_the_call_unsent() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let bench = Bench::new(TimeoutConfig::default());
    let service = bench.around(service_fn(move |_: Call| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    }));
    let late = Call::here().with_deadline(Instant::now());
    sleep(ms(5)).await;
    for call in [late, Call::here().with_timeout(Duration::ZERO)] {
        let error = timeout_of(service.call(&call, &Nothing).await.unwrap_err());
        assert_eq!((error.sent, error.limit), (Sent::No, Duration::ZERO));
    }
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    assert_eq!(bench.told(), ["TimedOut", "TimedOut"]);
    let counts = bench.layer.stats().classes()[2].counts;
    assert_eq!((counts.refused, counts.timed_out, counts.timeout_rate()), (2, 0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_says_more_is_passed_on() {
    let bench = Bench::new(TimeoutConfig::default());
    let exhausted = service_fn(|call: Call| async move {
        tokio::time::sleep_until(call.deadline.expect("the layer sets one")).await;
        Err::<(), Error>(AcquireError::new(AcquireFailure::TimedOut, ms(200)).into())
    });
    let service = bench.around(exhausted);
    for _ in 0..100 {
        let error = service
            .call(&Call::here().with_class(QueryClass::Instant), &Nothing)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Acquire(_)), "{error:?}");
    }
    let counts = bench.layer.stats().classes()[0].counts;
    assert_eq!(
        (counts.timed_out, counts.failed),
        (100, 0),
        "its limit ended it all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn another_error_is_no_timeout() {
    let bench = Bench::new(TimeoutConfig::default());
    let service = bench.around(service_fn(|_: Call| async {
        sleep(ms(100)).await;
        Err::<(), Error>(AcquireError::new(AcquireFailure::QueueFull, ms(100)).into())
    }));
    assert!(service.call(&Call::here(), &Nothing).await.is_err());
    let class = &bench.layer.stats().classes()[2];
    assert_eq!((class.counts.timed_out, class.counts.failed, class.times), (0, 1, None));
}

#[tokio::test(start_paused = true)]
async fn observing_ends_nothing_and_tells() {
    let bench = Bench::new(observing());
    let service = bench.around(service_fn(|call: Call| async move {
        assert!(call.deadline.is_none(), "nobody below is told of a limit either");
        sleep(ms(300)).await;
        Ok(())
    }));
    service
        .call(&Call::here().with_class(QueryClass::Instant), &Nothing)
        .await
        .unwrap();
    assert_eq!(bench.told(), ["WouldTimeOut", "SlowCall"]);
    let counts = bench.layer.stats().classes()[0].counts;
    assert_eq!((counts.finished, counts.would_time_out, counts.timed_out), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn observing_runs_even_what_is_too_late() {
    let bench = Bench::new(observing());
    let late = Call::here().with_timeout(Duration::ZERO);
    bench.around(takes(ms(1))).call(&late, &Nothing).await.unwrap();
    assert_eq!(bench.told(), ["WouldTimeOut"]);
}

#[tokio::test(start_paused = true)]
async fn off_does_and_counts_nothing() {
    let bench = Bench::new(TimeoutConfig {
        mode: Mode::Off,
        ..TimeoutConfig::default()
    });
    let service = bench.around(takes(LONG));
    service.call(&known(1).with_timeout(ms(1)), &Nothing).await.unwrap();
    assert!(bench.events().is_empty());
    assert_eq!(bench.layer.stats().remembered(), 0);
    assert!(
        bench
            .layer
            .stats()
            .classes()
            .iter()
            .all(|class| class.counts.calls() == 0)
    );
}

/// Says when it is dropped.
struct Held(Arc<AtomicU32>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_is_given_up_before_the_caller_hears_of_it() {
    let dropped = Arc::new(AtomicU32::new(0));
    let bench = Bench::new(TimeoutConfig::default());
    let held = dropped.clone();
    let service = bench.around(service_fn(move |_: Call| {
        let held = Held(held.clone());
        async move {
            pending::<()>().await;
            drop(held);
            Ok(())
        }
    }));
    let call = Call::here().with_class(QueryClass::Instant);
    assert!(service.call(&call, &Nothing).await.is_err());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);

    // The same when the caller loses patience first.
    assert!(timeout(ms(50), service.call(&call, &Nothing)).await.is_err());
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    let counts = bench.layer.stats().classes()[0].counts;
    assert_eq!((counts.timed_out, counts.abandoned, counts.calls()), (1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn limits_nest() {
    let outer = Bench::new(TimeoutConfig::default());
    let inner = Bench::new(TimeoutConfig::default());
    let service = outer.around(inner.around(takes(LONG)));
    let call = Call::here().with_timeout(ms(100));
    let error = timeout_of(service.call(&call, &Nothing).await.unwrap_err());
    assert_eq!(error.limit, ms(100));
    assert_eq!(outer.layer.stats().classes()[2].counts.timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn new_settings_apply_to_the_next_call() {
    let layer = TimeoutLayer::default();
    let service = db_core::Layer::layer(&layer, takes(ms(1_000)));
    let mut config = layer.config();
    config.normal.timeout = ms(100);
    config.custom.insert("own".into(), ClassLimits::FAST);
    let call = Call::here();
    let running = service.call(&call, &Nothing);
    let (first, ()) = tokio::join!(running, async { layer.reload(config.clone()).unwrap() });
    first.unwrap();
    assert!(service.call(&call, &Nothing).await.is_err());
    assert_eq!(layer.limits(QueryClass::Custom("own")), ClassLimits::FAST);
    let counts = layer.stats().classes()[2].counts;
    assert_eq!((counts.finished, counts.timed_out), (1, 1), "what was counted stays");

    config.near_limit = 7.0;
    let error = layer.reload(config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid configuration: timeout.near_limit = 7: allowed is 0.1..=1"
    );
    assert_eq!(layer.config().near_limit, 0.8);
}

#[tokio::test(start_paused = true)]
async fn the_error_survives_a_trip_through_sqlx() {
    let service = Bench::new(TimeoutConfig::default()).around(takes(LONG));
    let error = service
        .call(&known(1).with_timeout(ms(250)), &Nothing)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("timed out after 251.0ms: the caller's timeout is 250ms"),
        "{text}"
    );
    let error = sqlx::Error::from(error);
    assert!(matches!(&error, sqlx::Error::Io(io) if io.kind() == io::ErrorKind::TimedOut));
    assert!(matches!(Error::find(&error), Some(Error::Timeout(_))));
    assert_eq!(timeout_of(Error::from(error)).limit, ms(250));
}

/// The first row has been handed to the caller.
struct Streaming;

impl db_core::Operation for Streaming {
    type Output = ();

    async fn run(&self, _: &mut sqlx::PgConnection) -> Result<()> {
        Ok(())
    }

    fn replayable(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_does_not_limit_how_long_a_caller_reads() {
    let bench = Bench::new(TimeoutConfig::default());
    let service = bench.around(service_fn(|_: Call| async {
        sleep(LONG).await;
        Ok(())
    }));
    service.call(&known(1), &Streaming).await.unwrap();
    let stats = bench.layer.stats().statement(known(1).statement.unwrap()).unwrap();
    assert_eq!(
        (stats.counts.finished, stats.counts.near_limit, stats.times),
        (1, 0, None)
    );
    assert!(bench.events().is_empty());
    // What the caller names is meant.
    assert!(service.call(&known(1).with_timeout(ms(500)), &Streaming).await.is_err());
}
