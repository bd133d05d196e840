//! No series is lost or counted twice, whatever becomes of the server and of the callers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, quiet};
use db_stack::Db;
use db_testkit::Postgres;
use sqlx::postgres::PgConnectOptions;
use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// The samples of one scrape after the other.
#[derive(Default)]
struct Scrapes(BTreeMap<String, f64>);

impl Scrapes {
    /// Every series is there once, none has gone, and nothing that only grows has become less.
    fn look(&mut self, text: &str) {
        let mut found = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
        for (name, before) in &self.0 {
            let now = found.get(name).unwrap_or_else(|| panic!("{name} is lost"));
            let kind = name.split('{').next().unwrap();
            let grows = ["_total", "_count", "_bucket", "_sum"]
                .iter()
                .any(|end| kind.ends_with(end));
            // Sums of seconds are added up in another order each time.
            assert!(!grows || *now >= *before - 1e-9, "{name} was {before} and is {now}");
        }
        self.0 = found;
    }

    fn sum(&self, of: impl Fn(&str) -> bool) -> f64 {
        let rows = self.0.iter().filter(|(name, _)| of(name));
        rows.map(|(_, value)| value).sum()
    }

    fn calls(&self, status: &str) -> u64 {
        let status = format!("status=\"{status}\"");
        self.sum(|name| name.starts_with("ava_db_queries_total{") && name.contains(&status)) as u64
    }
}

/// What became of the calls, as their callers saw it.
#[derive(Default)]
struct Seen {
    done: AtomicU64,
    failed: AtomicU64,
    gone: AtomicU64,
}

/// One call; of three, one is dropped after a few polls. Counted from its first poll on.
async fn call(db: &Db, n: i32, seen: &Seen) {
    let mut call = Box::pin(sqlx::query("SELECT $1::int, pg_sleep(0.002)").bind(n).execute(db));
    let outcome = if n % 3 == 0 {
        let mut outcome = None;
        for _ in 0..=n % 4 {
            if let std::task::Poll::Ready(out) = futures::poll!(&mut call) {
                outcome = Some(out);
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        outcome
    } else {
        Some(call.as_mut().await)
    };
    drop(call);
    let count = match outcome {
        Some(Ok(_)) => &seen.done,
        Some(Err(_)) => &seen.failed,
        None => &seen.gone,
    };
    count.fetch_add(1, Ordering::Relaxed);
    if matches!(outcome, Some(Err(_))) {
        // An open breaker answers at once.
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_series_is_lost_or_doubled_over_restarts_and_cancellations() {
    let server = Postgres::start().await.unwrap();
    let options = PgConnectOptions::from_str(&server.url()).unwrap();
    let db = builder(options.clone(), 4)
        .configure(|config| config.pool.acquire_timeout = Duration::from_millis(500))
        .build()
        .unwrap();
    let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let tasks: Vec<_> = (0..12)
        .map(|task| {
            let (db, seen, stop) = (db.clone(), seen.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = task;
                while !stop.load(Ordering::Relaxed) {
                    call(&db, n, &seen).await;
                    n += 7;
                }
            })
        })
        .collect();
    let mut scrapes = Scrapes::default();
    let mut watch = async |span: Duration| {
        let end = Instant::now() + span;
        while Instant::now() < end {
            scrapes.look(&db.metrics().render());
            sleep(Duration::from_millis(20)).await;
        }
    };
    for _ in 0..2 {
        watch(Duration::from_millis(500)).await;
        server.stop_immediate().await.unwrap();
        watch(Duration::from_millis(300)).await;
        server.start_again().await.unwrap();
    }
    watch(Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(SOON, task).await.expect("nobody hangs").unwrap();
    }
    quiet(&db).await;
    scrapes.look(&db.metrics().render());

    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let made = [load(&seen.done), load(&seen.failed), load(&seen.gone)];
    let counted = ["success", "error", "cancelled"].map(|status| scrapes.calls(status));
    assert_eq!(counted, made, "done, failed, dropped");
    // How many fail hangs on how many were out when the server went.
    assert!(made[0] > 10 && made[1] > 0 && made[2] > 10, "{made:?} is no test");
    let durations = scrapes.sum(|name| name.starts_with("ava_db_query_duration_seconds_count")) as u64;
    let classes = scrapes.sum(|name| name.starts_with("ava_db_class_duration_seconds_count")) as u64;
    let all = made.iter().sum::<u64>();
    assert_eq!([durations, classes], [all, all]);
    for gauge in [
        r#"ava_db_pool_connections{state="active"}"#,
        r#"ava_db_pool_aside_connections{state="quarantined"}"#,
        r#"ava_db_pool_aside_connections{state="opening"}"#,
        "ava_db_pool_waiting",
        "ava_db_leak_suspects",
    ] {
        assert_eq!(scrapes.0[gauge], 0.0, "{gauge}");
    }
    let names: Vec<_> = scrapes.0.keys().cloned().collect();
    db.close().await;

    // The service begins anew: nothing of before is counted again, and it has the same series but for those of errors.
    let again = builder(options, 4).build().unwrap();
    sqlx::query("SELECT 1").execute(&again).await.unwrap();
    let mut anew = Scrapes::default();
    anew.look(&again.metrics().render());
    assert_eq!(anew.sum(|name| name.starts_with("ava_db_queries_total{")), 1.0);
    let of_errors = |name: &&String| name.starts_with("ava_db_errors_total{");
    let lost: Vec<_> = names
        .iter()
        .filter(|name| !of_errors(name) && !anew.0.contains_key(*name))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    again.close().await;
}
