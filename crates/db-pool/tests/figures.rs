//! The figures add up, and nothing that is printed shows a secret.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Log, SOON, rig, run, until, up_to};
use db_core::{AcquireFailure, Call, Event, LeaseOutcome};
use db_pool::{Pool, PoolConfig, SessionConfig};
use db_testkit::Postgres;
use sqlx::postgres::PgConnectOptions;
use std::{str::FromStr, time::Duration};
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_add_up_after_a_random_load() {
    let rig = rig().await;
    let config = PoolConfig {
        min_connections: 1,
        max_waiting: 12,
        acquire_timeout: Duration::from_millis(400),
        max_lifetime: Some(Duration::from_millis(500)),
        idle_timeout: Some(Duration::from_millis(200)),
        ..up_to(4)
    };
    let (pool, log) = rig.watched_pool(config);
    let callers: Vec<_> = (0..24_u64)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(i);
                let (mut served, mut timed_out, mut refused) = (0, 0, 0);
                for _ in 0..40 {
                    match pool.acquire().await {
                        Ok(mut lease) => {
                            served += 1;
                            match random.u8(0..8) {
                                0 => run(&mut lease, "BEGIN").await,
                                1 => {
                                    let sleeping = sqlx::raw_sql("SELECT pg_sleep(9)").execute(&mut *lease);
                                    assert!(timeout(Duration::from_millis(3), sleeping).await.is_err());
                                }
                                2 => lease.close_on_drop(),
                                3 => drop(lease.detach()),
                                4 => sleep(Duration::from_millis(5)).await,
                                _ => {}
                            }
                        }
                        Err(error) => match common::refusal::<()>(Err(error)).failure {
                            AcquireFailure::TimedOut => timed_out += 1,
                            AcquireFailure::QueueFull => {
                                refused += 1;
                                sleep(Duration::from_millis(2)).await;
                            }
                            other => panic!("{other}"),
                        },
                    }
                }
                (served, timed_out, refused)
            })
        })
        .collect();
    let (mut served, mut timed_out, mut refused) = (0_u64, 0_u64, 0_u64);
    for caller in callers {
        let (s, t, r) = timeout(SOON * 3, caller).await.unwrap().unwrap();
        (served, timed_out, refused) = (served + s, timed_out + t, refused + r);
    }
    until("it is quiet", async || {
        let stats = pool.stats();
        stats.quarantined == 0 && stats.dialing == 0 && stats.idle == stats.size
    })
    .await;
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.lent), (0, 0, 0), "{stats:?}");
    // A lease may reach its caller in the very moment in which that one gives up.
    assert!(
        (served..=served + timed_out).contains(&stats.acquires),
        "{served} served: {stats:?}"
    );
    assert_eq!((stats.timeouts, stats.refused), (timed_out, refused), "{stats:?}");
    assert_eq!(
        stats.connects,
        u64::from(stats.size) + stats.closed.iter().sum::<u64>(),
        "{stats:?}"
    );
    assert!(stats.waits > 0 && stats.wait_time > Duration::ZERO, "{stats:?}");
    assert!(stats.waits <= stats.acquires + stats.timeouts, "{stats:?}");
    assert!(stats.size <= 4, "{stats:?}");

    // The events tell the same story.
    let count = |matches: fn(&Event) -> bool| log.count(matches) as u64;
    assert_eq!(count(|e| matches!(e, Event::Connected { .. })), stats.connects);
    assert_eq!(
        count(|e| matches!(
            e,
            Event::Quarantined {
                outcome: LeaseOutcome::Reused,
                ..
            }
        )),
        stats.cleaned
    );
    assert_eq!(count(|e| matches!(e, Event::AcquireFailed { .. })), timed_out + refused);
}

#[tokio::test]
async fn a_long_wait_is_an_event() {
    let rig = rig().await;
    let (pool, log) = rig.watched_pool(PoolConfig {
        slow_acquire: Duration::from_millis(50),
        ..up_to(1)
    });
    let held = pool.acquire().await.unwrap();
    let waiting = tokio::spawn(pool.acquire());
    sleep(Duration::from_millis(80)).await;
    drop(held);
    drop(waiting.await.unwrap().unwrap());
    drop(pool.acquire().await.unwrap());
    let slow = |event: &Event| matches!(event, Event::SlowAcquire { served: true, site: Some(site), .. } if site.file().ends_with("figures.rs"));
    // The very first one may have waited long for its connect.
    assert!((1..=2).contains(&log.count(slow)), "{:?}", log.all());
}

const CANARY: &str = "canary-6b1f";

fn clean(what: &str, text: &str) {
    assert!(!text.contains(CANARY), "{what} shows the password: {text}");
}

#[tokio::test]
async fn no_debug_and_no_error_shows_the_password() {
    let server = Postgres::builder().password_auth(CANARY).start().await.unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap();
    assert!(format!("{options:?}").contains(CANARY), "sqlx's own shows it");
    let (log, observers) = Log::new();
    let builder = Pool::builder(options.clone(), up_to(2)).observers(observers.clone());
    clean("the builder", &format!("{builder:#?}"));
    let pool = builder.build().unwrap();
    let mut lease = pool.acquire().await.unwrap();
    run(&mut lease, "SELECT 1").await;
    clean("a lease", &format!("{lease:#?}"));
    clean("the pool", &format!("{pool:#?}"));
    clean("lent", &format!("{:?}", pool.lend(&Call::here()).await.unwrap()));

    let refused = Pool::builder(options.password(&format!("{CANARY}-wrong")), up_to(1)).observers(observers);
    let refused = refused.session(SessionConfig::default()).build().unwrap();
    let error = refused.acquire().await.unwrap_err();
    clean("the error", &format!("{error} {error:#?}"));
    let error: sqlx::Error = error.into();
    clean("sqlx's error", &format!("{error} {error:#?}"));
    drop(lease);
    clean("the report", &format!("{:#?}", pool.close().await));
    assert!(log.count(|event| matches!(event, Event::ConnectFailed { .. })) > 0);
    clean("an event", &format!("{:#?}", log.all()));
    // A URL that can't be read.
    let error = Pool::connect(&format!("postgres://me:{CANARY}@localhost:nonsense/x"), up_to(1))
        .await
        .unwrap_err();
    clean("the URL's error", &format!("{error} {error:#?}"));
}
