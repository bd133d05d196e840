//! What is told and counted about calls that ended in time.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use db_core::{Call, Event, LimitOrigin, QueryClass, Service, config::Mode};
use db_timeout::{AdaptiveConfig, TimeoutConfig};
use std::time::Duration;
use support::{Bench, Nothing, known, ms, takes};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_call_near_its_limit_is_told() {
    let bench = Bench::new(TimeoutConfig::default());
    let call = known(1).with_timeout(ms(500));
    bench.around(takes(ms(400))).call(&call, &Nothing).await.unwrap();
    assert!(bench.events().is_empty());
    bench.around(takes(ms(401))).call(&call, &Nothing).await.unwrap();
    let [
        Event::NearLimit {
            class,
            statement,
            site,
            elapsed,
            limit,
            origin,
        },
    ] = bench.events()[..]
    else {
        panic!("one event");
    };
    assert_eq!(
        (class, statement, site),
        (QueryClass::Normal, call.statement, call.site)
    );
    assert_eq!((elapsed, limit, origin), (ms(401), ms(500), LimitOrigin::Call));
    assert_eq!(bench.layer.stats().classes()[2].counts.near_limit, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_over_its_classes_threshold_is_told() {
    let bench = Bench::new(TimeoutConfig::default());
    let call = Call::here().with_class(QueryClass::Slow);
    bench.around(takes(ms(10_001))).call(&call, &Nothing).await.unwrap();
    assert!(matches!(bench.events()[..], [Event::SlowCall { threshold, .. }] if threshold == ms(10_000)));
}

#[tokio::test(start_paused = true)]
async fn the_times_are_those_that_callers_saw() {
    let bench = Bench::new(TimeoutConfig::default());
    for n in 1..=90 {
        bench.around(takes(ms(n))).call(&known(1), &Nothing).await.unwrap();
    }
    for _ in 0..10 {
        assert!(bench.around(takes(ms(60_000))).call(&known(1), &Nothing).await.is_err());
    }
    let near = |time: Duration, expected: u64| {
        let (low, high) = (ms(expected).mul_f64(0.93), ms(expected).mul_f64(1.07));
        assert!((low..=high).contains(&time), "{time:?} is not about {expected} ms");
    };
    let stats = bench.layer.stats();
    let statement = stats.statement(known(1).statement.unwrap()).unwrap();
    for (counts, times) in [
        (stats.classes()[2].counts, stats.classes()[2].times),
        (statement.counts, statement.times),
    ] {
        assert_eq!(
            (counts.finished, counts.timed_out, counts.timeout_rate()),
            (90, 10, 0.1)
        );
        let times = times.unwrap();
        assert_eq!(times.samples, 100);
        near(times.p50, 50);
        near(times.p95, 5_001);
        near(times.p99, 5_001);
    }
    assert_eq!(stats.statement(known(2).statement.unwrap()), None);
}

#[tokio::test(start_paused = true)]
async fn a_class_forgets_its_times_within_two_windows_but_not_its_counts() {
    let bench = Bench::new(TimeoutConfig::default());
    bench.around(takes(ms(10))).call(&Call::here(), &Nothing).await.unwrap();
    sleep(Duration::from_secs(59)).await;
    assert!(bench.layer.stats().classes()[2].times.is_some());
    sleep(Duration::from_secs(62)).await;
    let class = &bench.layer.stats().classes()[2];
    assert_eq!((class.counts.finished, class.times), (1, None));
}

#[tokio::test(start_paused = true)]
async fn the_worst_statement_comes_first() {
    let bench = Bench::new(TimeoutConfig::default());
    for n in 0..3 {
        bench.around(takes(ms(1))).call(&known(n), &Nothing).await.unwrap();
    }
    assert!(bench.around(takes(ms(60_000))).call(&known(1), &Nothing).await.is_err());
    let statements = bench.layer.stats().statements();
    assert_eq!(statements.len(), 3);
    assert_eq!(Some(statements[0].statement), known(1).statement);
}

fn adaptive(mode: Mode) -> Bench {
    Bench::new(TimeoutConfig {
        adaptive: AdaptiveConfig {
            mode,
            ..AdaptiveConfig::default()
        },
        ..TimeoutConfig::default()
    })
}

/// A hundred calls of 100 ms teach a limit of about 150 ms.
async fn taught(mode: Mode) -> Bench {
    let bench = adaptive(mode);
    for _ in 0..100 {
        bench.around(takes(ms(100))).call(&known(1), &Nothing).await.unwrap();
    }
    assert!(bench.events().is_empty());
    bench
}

#[tokio::test(start_paused = true)]
async fn a_learned_limit_ends_calls_and_gives_way_when_too_many_pass_it() {
    let bench = taught(Mode::Enforce).await;
    let service = bench.around(takes(ms(250)));
    for n in 1..=4 {
        let error = support::timeout_of(service.call(&known(1), &Nothing).await.unwrap_err());
        assert_eq!(error.origin, LimitOrigin::Adaptive);
        assert!((ms(150)..=ms(160)).contains(&error.limit), "{:?}", error.limit);
        assert_eq!(bench.told().contains(&"LimitWidened".to_owned()), n == 4);
    }
    service.call(&known(1), &Nothing).await.unwrap();
    // Another statement has nothing to do with it.
    bench.around(takes(ms(1_000))).call(&known(2), &Nothing).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_learned_limit_never_lengthens_that_of_the_class() {
    let bench = taught(Mode::Enforce).await;
    let mut config = bench.layer.config();
    config.normal.timeout = ms(110);
    bench.layer.reload(config).unwrap();
    let error = bench
        .around(takes(ms(140)))
        .call(&known(1), &Nothing)
        .await
        .unwrap_err();
    assert_eq!(support::timeout_of(error).limit, ms(110));
}

#[tokio::test(start_paused = true)]
async fn an_observed_learned_limit_only_tells() {
    let bench = taught(Mode::Observe).await;
    for _ in 0..3 {
        bench.around(takes(ms(250))).call(&known(1), &Nothing).await.unwrap();
        assert!(matches!(
            bench.events()[..],
            [Event::WouldTimeOut {
                origin: LimitOrigin::Adaptive,
                ..
            }]
        ));
    }
    let stats = bench.layer.stats().statement(known(1).statement.unwrap()).unwrap();
    assert_eq!((stats.counts.finished, stats.counts.would_time_out), (103, 3));
    assert!(stats.learned.is_some());
}

#[tokio::test(start_paused = true)]
async fn errors_and_impatient_callers_teach_nothing() {
    let bench = adaptive(Mode::Enforce);
    let fails = db_core::service_fn(|_: Call| async {
        Err::<(), _>(db_core::AcquireError::new(db_core::AcquireFailure::Down, ms(0)).into())
    });
    let service = bench.around(fails);
    for _ in 0..200 {
        assert!(service.call(&known(1), &Nothing).await.is_err());
    }
    let service = bench.around(takes(ms(100)));
    for _ in 0..200 {
        assert!(
            tokio::time::timeout(ms(1), service.call(&known(1), &Nothing))
                .await
                .is_err()
        );
    }
    let stats = bench.layer.stats().statement(known(1).statement.unwrap()).unwrap();
    assert_eq!((stats.learned, stats.times), (None, None));
    assert_eq!((stats.counts.failed, stats.counts.abandoned), (200, 200));
}
