//! The circuit breaker before a real server that freezes, dies and comes back.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, until};
use db_stack::{BreakerCause, BreakerState, Db, Error, Mode};
use db_testkit::{FaultProxy, Postgres};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const LIMIT: Duration = Duration::from_millis(300);

async fn select(db: &Db) -> Result<i32, Error> {
    Ok(sqlx::query_scalar("SELECT 1").fetch_one(db).await?)
}

fn through(proxy: &FaultProxy, server: &Postgres) -> PgConnectOptions {
    PgConnectOptions::from_str(&proxy.url_for(server))
        .unwrap()
        .disable_statement_logging()
}

fn breaker_is(db: &Db, state: BreakerState) -> impl AsyncFnMut() -> bool {
    let db = db.clone();
    async move || db.breaker().state() == state
}

/// Callers that go on and on, each call within its limit.
struct Load {
    callers: JoinSet<Duration>,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
}

impl Load {
    fn start(db: &Db, callers: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut set = JoinSet::new();
        for _ in 0..callers {
            let (db, stop, served) = (db.timeout(LIMIT), stop.clone(), served.clone());
            set.spawn(async move {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    match select(&db).await {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => sleep(Duration::from_millis(2)).await,
                    }
                    longest = longest.max(since.elapsed());
                }
                longest
            });
        }
        Self {
            callers: set,
            stop,
            served,
        }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    async fn stop(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        while let Some(one) = timeout(SOON, self.callers.join_next()).await.expect("nobody hangs") {
            longest = longest.max(one.unwrap());
        }
        longest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_opens_it_and_a_thawed_one_closes_it() {
    let server = Postgres::start().await.unwrap();
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let db = builder(through(&proxy, &server), 4).build().unwrap();
    select(&db).await.unwrap();
    let load = Load::start(&db, 16);
    until("calls are served", async || load.served() > 50).await;

    server.freeze().await.unwrap();
    until("it opens", breaker_is(&db, BreakerState::Open)).await;
    sleep(LIMIT).await;
    let (before, probes) = (proxy.counters(), db.breaker().stats().probes);
    sleep(Duration::from_secs(2)).await;
    let dialled = proxy.connects_since(&before);
    let probes = db.breaker().stats().probes - probes;
    assert!(
        dialled <= probes + 1,
        "{dialled} connections while it was open, {probes} probes"
    );
    let error = select(&db).await.unwrap_err();
    assert!(matches!(error, Error::Breaker(_)), "{error}");

    server.thaw().await.unwrap();
    let at = load.served();
    until("it closes", breaker_is(&db, BreakerState::Closed)).await;
    until("calls are served again", async || load.served() > at + 50).await;
    let longest = load.stop().await;
    assert!(
        longest < LIMIT + Duration::from_secs(2),
        "somebody waited for {longest:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_opens_it_and_transactions_close_it_too() {
    let server = Postgres::start().await.unwrap();
    let db = builder(server.options(), 4)
        .configure(|config| config.pool.acquire_timeout = LIMIT)
        .build()
        .unwrap();
    select(&db).await.unwrap();
    server.kill().await.unwrap();
    until("it opens", async || {
        let _ = db.timeout(LIMIT).begin().await;
        let _ = select(&db.timeout(LIMIT)).await;
        let lease = timeout(LIMIT, db.acquire()).await;
        drop(lease);
        db.breaker().stats().opened > 0
    })
    .await;
    until("it refuses transactions", async || {
        matches!(db.begin().await, Err(Error::Breaker(_)))
    })
    .await;
    assert_eq!(db.breaker().stats().cause, Some(BreakerCause::Connect));
    server.start_again().await.unwrap();
    until("transactions close it", async || {
        if let Ok(tx) = db.begin().await {
            tx.commit().await.unwrap();
        }
        db.breaker().state() == BreakerState::Closed
    })
    .await;
    select(&db).await.unwrap();
}

#[tokio::test]
async fn leases_alone_close_it() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 2).build().unwrap();
    select(&db).await.unwrap();
    for _ in 0..20 {
        db.breaker()
            .note(&Err::<(), _>(Error::from(sqlx::Error::WorkerCrashed)));
    }
    assert_eq!(db.breaker().state(), BreakerState::Open);
    until("leases close it", async || {
        drop(db.acquire().await);
        db.breaker().state() == BreakerState::Closed
    })
    .await;
}

#[tokio::test]
async fn by_hand() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 2).build().unwrap();
    select(&db).await.unwrap();
    db.breaker().force_open();
    let refused = |error: Error| matches!(error, Error::Breaker(open) if open.retry_after.is_none());
    assert!(refused(select(&db).await.unwrap_err()));
    assert!(refused(db.acquire().await.unwrap_err()));
    assert!(refused(db.begin().await.unwrap_err()));
    assert!(refused(db.listener().await.unwrap_err()));
    db.breaker().reset();
    select(&db).await.unwrap();
}

#[tokio::test]
async fn bad_statements_never_open_it() {
    let database = db_testkit::database().await;
    let db = builder(database.options(), 2).build().unwrap();
    for statement in ["SELEC", "SELECT 1/0", "SELECT * FROM nowhere", "SELECT 'x'::int"] {
        for _ in 0..50 {
            sqlx::query(statement).execute(&db).await.unwrap_err();
        }
    }
    assert_eq!(db.breaker().stats().opened, 0);
    select(&db).await.unwrap();
}

#[tokio::test]
async fn observed_it_refuses_nobody() {
    let server = Postgres::start().await.unwrap();
    let db = builder(server.options(), 2)
        .configure(|config| config.breaker.mode = Mode::Observe)
        .build()
        .unwrap();
    select(&db).await.unwrap();
    server.stop().await.unwrap();
    for _ in 0..40 {
        let error = select(&db.timeout(Duration::from_millis(30))).await.unwrap_err();
        assert!(!matches!(error, Error::Breaker(_)), "{error}");
    }
    let stats = db.breaker().stats();
    assert!(
        stats.would_have_opened > 0 && stats.refused == 0 && stats.probes == 0,
        "{stats:?}"
    );
}
