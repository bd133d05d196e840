//! A caller that gets no lease is told the reason, not "timed out".
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, refusal, rig, up_to};
use db_core::{AcquireError, AcquireFailure};
use db_pool::{Pool, PoolConfig};
use db_testkit::Postgres;
use sqlx::postgres::PgConnectOptions;
use std::{error::Error, io, str::FromStr, time::Duration};
use tokio::time::{Instant, sleep, timeout};

fn impatient(max: u32) -> PoolConfig {
    PoolConfig {
        acquire_timeout: Duration::from_millis(600),
        ..up_to(max)
    }
}

/// The first error of this kind along `source()`, as a log or an error report finds it.
fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn sqlstate(error: &AcquireError) -> Option<String> {
    let sqlx::Error::Database(server) = find::<sqlx::Error>(error)? else {
        return None;
    };
    server.code().map(|code| code.into_owned())
}

#[tokio::test]
async fn connection_refused() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.close_port().await.unwrap();
    let pool = Pool::builder(options, impatient(2)).build().unwrap();
    let error = refusal(timeout(SOON, pool.acquire()).await.unwrap());
    assert_eq!(error.failure, AcquireFailure::Down, "{error}");
    assert_eq!(
        find::<io::Error>(&error).unwrap().kind(),
        io::ErrorKind::ConnectionRefused
    );
    assert!(
        error.waited >= Duration::from_millis(500),
        "it may have come back: {error}"
    );
    assert!(pool.stats().connect_failures >= 2, "tried again: {:?}", pool.stats());

    proxy.heal();
    drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_server_that_takes_the_connection_and_says_nothing() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.hang_new();
    let config = PoolConfig {
        connect_timeout: Duration::from_millis(200),
        ..impatient(2)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    let error = refusal(timeout(SOON, pool.acquire()).await.unwrap());
    assert_eq!(error.failure, AcquireFailure::Down, "{error}");
    assert_eq!(find::<io::Error>(&error).unwrap().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn wrong_password_at_once() {
    let server = Postgres::builder().password_auth("right").start().await.unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap().password("wrong");
    let config = PoolConfig {
        acquire_timeout: Duration::from_secs(60),
        ..up_to(2)
    };
    let pool = Pool::builder(options, config).build().unwrap();
    for _ in 0..2 {
        let asked = Instant::now();
        let error = refusal(timeout(SOON, pool.acquire()).await.unwrap());
        assert_eq!(error.failure, AcquireFailure::Refused, "{error}");
        assert_eq!(sqlstate(&error).as_deref(), Some("28P01"), "{error}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "waiting can't help: {:?}",
            asked.elapsed()
        );
    }
}

#[tokio::test]
async fn no_such_database_at_once() {
    let rig = rig().await;
    let config = PoolConfig {
        acquire_timeout: Duration::from_secs(60),
        ..up_to(2)
    };
    let pool = Pool::builder(rig.options().database("no_such_database"), config)
        .build()
        .unwrap();
    let error = refusal(timeout(SOON, pool.acquire()).await.unwrap());
    assert_eq!(
        (error.failure, sqlstate(&error).as_deref()),
        (AcquireFailure::Refused, Some("3D000")),
        "{error}"
    );
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

#[tokio::test]
async fn too_many_connections() {
    let server = Postgres::builder().max_connections(12).start().await.unwrap();
    let mut admin = server.admin().await.unwrap();
    sqlx::raw_sql("CREATE ROLE app LOGIN")
        .execute(&mut admin)
        .await
        .unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap().username("app");
    let pool = Pool::builder(options, impatient(50)).build().unwrap();
    let mut leases = Vec::new();
    let error = loop {
        match timeout(SOON, pool.acquire()).await.unwrap() {
            Ok(lease) => leases.push(lease),
            Err(error) => break refusal::<()>(Err(error)),
        }
        assert!(leases.len() < 12);
    };
    assert_eq!(error.failure, AcquireFailure::TooManyConnections, "{error}");
    assert_eq!(sqlstate(&error).as_deref(), Some("53300"), "{error}");
    assert!(leases.len() >= 5, "what there was room for is open: {}", leases.len());
    // A lease that comes back serves the next caller, full server or not.
    leases.pop();
    drop(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
}

#[tokio::test]
async fn exhausted_names_the_holders() {
    let rig = rig().await;
    let pool = rig.pool(PoolConfig {
        acquire_timeout: Duration::from_millis(300),
        ..up_to(2)
    });
    let first = pool.acquire().await.unwrap();
    let first_line = line!() - 1;
    // The order in the error is by time.
    sleep(Duration::from_millis(5)).await;
    let _second = pool.acquire().await.unwrap();
    let error = refusal(pool.acquire().await);
    assert_eq!(error.failure, AcquireFailure::TimedOut);
    assert!(error.waited >= Duration::from_millis(300), "{error}");
    assert_eq!((error.size, error.max, error.holders.len()), (2, 2, 2), "{error:?}");
    let longest = &error.holders[0];
    let site = longest.site.unwrap();
    assert!(site.file().ends_with("honest_errors.rs"), "{site}");
    assert_eq!(site.line(), first_line);
    assert!(
        longest.held >= Duration::from_millis(300) && longest.held < SOON,
        "{longest}"
    );
    assert_eq!(longest.backend_pid, Some(first.backend_pid()));
    let text = error.to_string();
    assert!(text.contains(&format!("honest_errors.rs:{first_line} for ")), "{text}");
    assert!(text.contains("2 of 2 connections open"), "{text}");
    assert_eq!(pool.stats().timeouts, 1);
}

#[tokio::test]
async fn a_callers_own_deadline_is_kept() {
    use db_core::{Call, Source};
    let rig = rig().await;
    let pool = rig.pool(PoolConfig {
        acquire_timeout: Duration::from_secs(60),
        ..up_to(1)
    });
    let _held = pool.acquire().await.unwrap();
    let asked = Instant::now();
    let call = Call::here().with_deadline(asked + Duration::from_millis(100));
    let error = refusal(timeout(SOON, Source::acquire(&pool, &call)).await.unwrap());
    assert_eq!(error.failure, AcquireFailure::TimedOut);
    assert!(asked.elapsed() >= Duration::from_millis(100));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn one_attempt_serves_all_who_wait() {
    let rig = rig().await;
    let (proxy, options) = rig.proxy().await;
    proxy.close_port().await.unwrap();
    let pool = Pool::builder(options, impatient(4)).build().unwrap();
    let callers: Vec<_> = (0..100).map(|_| tokio::spawn(pool.acquire())).collect();
    for caller in callers {
        assert_eq!(
            refusal(timeout(SOON, caller).await.unwrap().unwrap()).failure,
            AcquireFailure::Down
        );
    }
    let failures = pool.stats().connect_failures;
    assert!(failures < 30, "{failures} attempts for 100 callers in 0.6 s");
}
