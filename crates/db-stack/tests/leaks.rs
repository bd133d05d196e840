//! Leases that are out: each leak is named with its site and cause, taken back where that is allowed, and nothing else is.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Rig, SOON, rig, until};
use db_stack::{
    AcquireFailure, Db, Error, Event, Events, LeaseCause, Mode, QueryClass, Suspect, TransactionAborted,
    TransactionState,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A database whose leases are suspect after 100 ms and, when `mode` enforces, taken back after 300 ms.
fn watched(rig: &Rig, max: u32, mode: Mode) -> (Db, Events) {
    let db = rig.builder(max).configure(|config| {
        config.leak.mode = mode;
        // Nobody is shed while these tests exhaust their pools.
        config.pool.admission = Mode::Off;
        config.leak.threshold = ms(100);
        config.leak.reclaim_after = ms(300);
        config.leak.nested_wait = ms(200);
        if mode.enforces() {
            // These tests leak and go on in one task.
            config.leak.nested = Mode::Off;
        }
    });
    let db = db.build().unwrap();
    let events = db.events();
    (db, events)
}

async fn event<T>(events: &mut Events, pick: impl Fn(&Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = pick(&events.next().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(SOON, found).await.expect("the event comes")
}

async fn suspect(events: &mut Events) -> Arc<Suspect> {
    event(events, |event| match event {
        Event::LeaseSuspect(suspect) => Some(suspect.clone()),
        _ => None,
    })
    .await
}

#[track_caller]
fn is_at(suspect: &Suspect, line: u32) {
    let site = suspect.site.expect("a site");
    assert!(site.file().ends_with("leaks.rs") && site.line() == line, "{suspect}");
}

#[tokio::test]
async fn a_forgotten_lease_is_named_once() {
    let rig = rig().await;
    let (db, mut events) = watched(&rig, 2, Mode::Observe);
    let line = line!() + 1;
    let lease = db.acquire().await.unwrap();
    std::mem::forget(lease);
    let found = suspect(&mut events).await;
    is_at(&found, line);
    assert_eq!(found.cause, LeaseCause::Unused);
    assert!(found.to_string().contains("nobody uses it (process "), "{found}");
    let would = event(&mut events, |event| match event {
        Event::WouldRevoke(suspect) => Some(suspect.clone()),
        _ => None,
    });
    is_at(&*would.await, line);
    sleep(ms(200)).await;
    while let Some(event) = events.try_next() {
        assert!(
            !matches!(event, Event::LeaseSuspect(_) | Event::WouldRevoke(_)),
            "{event:?}"
        );
    }
    let leases = db.leases();
    assert_eq!((leases.counts.suspected(), leases.counts.would_revoke), (1, 1));
    assert_eq!(leases.open[0].suspected, Some(LeaseCause::Unused));
    assert_eq!(db.stats().in_use, 1, "observing takes nothing away");
}

#[tokio::test]
async fn causes_are_told_apart() {
    let rig = rig().await.with_table().await;
    rig.admin().await.run("INSERT INTO t VALUES (1)").await;
    let (db, mut events) = watched(&rig, 4, Mode::Observe);

    let mut tx = db.begin().await.unwrap();
    sqlx::query("UPDATE t SET n = 2").execute(&mut *tx).await.unwrap();
    let found = suspect(&mut events).await;
    assert_eq!(
        (found.cause, found.transaction),
        (LeaseCause::IdleInTransaction, TransactionState::Open)
    );
    assert!(found.last_statement.is_some());

    let blocked = tokio::spawn({
        let db = db.clone();
        async move { sqlx::query("UPDATE t SET n = 3").execute(&db).await }
    });
    let found = suspect(&mut events).await;
    assert_eq!(found.cause, LeaseCause::LockWait);
    let session = found.session.as_ref().unwrap();
    assert_eq!(session.blocked_by.len(), 1, "{found}");
    assert!(found.statement.is_some() && found.site.is_none());
    assert!(
        found.to_string().contains("UPDATE t, blocked by"),
        "no literals: {found}"
    );
    tx.commit().await.unwrap();
    blocked.await.unwrap().unwrap();

    let slow = sqlx::query("SELECT pg_sleep(0.6)").execute(&db);
    let (slow, found) = tokio::join!(slow, suspect(&mut events));
    slow.unwrap();
    assert_eq!(found.cause, LeaseCause::SlowStatement);

    let mut lease = db.acquire().await.unwrap();
    let looping = async {
        for _ in 0..200 {
            sqlx::query("SELECT 1").execute(&mut *lease).await.unwrap();
            sleep(ms(1)).await;
        }
    };
    let ((), found) = tokio::join!(looping, suspect(&mut events));
    assert_eq!(found.cause, LeaseCause::Busy);
    drop(lease);
    let back = event(&mut events, |event| match event {
        Event::SuspectReturned { held, site, .. } if site.is_some() => Some(*held),
        _ => None,
    });
    assert!(back.await >= ms(100));
}

#[tokio::test]
async fn batches_are_no_suspects_and_short_leases_neither() {
    let rig = rig().await;
    let (db, mut events) = watched(&rig, 2, Mode::Enforce);
    let batch = db.class(QueryClass::Batch).acquire().await.unwrap();
    for _ in 0..200 {
        sqlx::query("SELECT pg_sleep(0.002)").execute(&db).await.unwrap();
    }
    drop(batch);
    while let Some(event) = events.try_next() {
        assert!(!matches!(event, Event::LeaseSuspect(_)), "{event:?}");
    }
    let leases = db.leases();
    assert_eq!(leases.counts.suspected(), 0);
    assert_eq!(leases.use_times.count(), 201);
    assert_eq!(leases.sites.iter().map(|site| site.leases).sum::<u64>(), 201);
    let batch = leases.sites.iter().find(|site| site.site.is_some()).unwrap();
    assert!(batch.leases == 1 && batch.longest >= ms(400));
}

#[tokio::test]
async fn what_is_leaked_is_taken_back_and_serves_others() {
    static PARKED: Mutex<Option<db_stack::Lease>> = Mutex::new(None);
    let rig = rig().await.with_table().await;
    let (db, mut events) = watched(&rig, 2, Mode::Enforce);
    std::mem::forget(db.acquire().await.unwrap());
    *PARKED.lock().unwrap() = Some(db.acquire().await.unwrap());
    let mut admin = rig.admin().await;
    // Both are out, so only a reclaimed place can serve.
    let one: i32 = timeout(SOON, sqlx::query_scalar("SELECT 1").fetch_one(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one, 1);
    for _ in 0..2 {
        let revoked = event(&mut events, |event| match event {
            Event::LeaseRevoked(suspect) => Some(suspect.clone()),
            _ => None,
        });
        assert_eq!(revoked.await.cause, LeaseCause::Unused);
    }
    until("the accounts are right", async || {
        db.stats().in_use == 0 && db.stats().size <= 2
    })
    .await;
    // Late use harms nobody.
    let mut parked = PARKED.lock().unwrap().take().unwrap();
    assert!(parked.revoked().unwrap().to_string().contains("leaks.rs"));
    sqlx::query("INSERT INTO t VALUES (1)")
        .execute(&mut *parked)
        .await
        .unwrap_err();
    drop(parked);
    sleep(ms(50)).await;
    assert_eq!(db.stats().in_use, 0);
    assert!(admin.rows().await.is_empty());
    // On a busy machine the second may take longer to come than the first may be out.
    let mut config = db_stack::config::DbConfig::clone(&db.config());
    config.leak.mode = Mode::Off;
    db.reload(config).unwrap();
    let (a, b) = tokio::join!(db.acquire(), db.acquire());
    assert_eq!((a.is_ok(), b.is_ok(), db.stats().size), (true, true, 2));
}

#[tokio::test]
async fn a_transaction_that_was_taken_back_says_so() {
    let rig = rig().await.with_table().await;
    let (db, mut events) = watched(&rig, 1, Mode::Enforce);
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    let revoked = event(&mut events, |event| match event {
        Event::LeaseRevoked(suspect) => Some(suspect.clone()),
        _ => None,
    });
    assert_eq!(revoked.await.cause, LeaseCause::IdleInTransaction);
    let late = sqlx::query("INSERT INTO t VALUES (2)")
        .execute(&mut *tx)
        .await
        .unwrap_err();
    assert!(matches!(Error::from(late), Error::Revoked(_)));
    let error = tx.commit().await.unwrap_err();
    assert!(
        matches!(&error, Error::Revoked(revoked) if revoked.cause == LeaseCause::IdleInTransaction),
        "{error}"
    );
    timeout(SOON, sqlx::query("INSERT INTO t VALUES (3)").execute(&db))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rig.admin().await.rows().await, [3]);
}

#[tokio::test]
async fn a_statement_that_was_taken_back_is_cancelled_first() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 1, Mode::Enforce);
    let db = db.class(QueryClass::Custom("forever"));
    let error = timeout(SOON, sqlx::query("SELECT pg_sleep(60)").execute(&db))
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(Error::from(error), Error::Revoked(revoked) if revoked.cause == LeaseCause::SlowStatement));
    until("the slot is back", async || db.stats().in_use == 0).await;
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    let mut admin = rig.admin().await;
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' \
         AND pid <> pg_backend_pid()";
    assert_eq!(admin.number(asleep).await, 0);
}

#[tokio::test]
async fn a_raw_statement_that_was_taken_back_ends_too() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 1, Mode::Enforce);
    let mut lease = db.acquire().await.unwrap();
    let raw = sqlx::query("SELECT pg_sleep(60)").execute(&mut *lease);
    timeout(SOON, raw).await.unwrap().unwrap_err();
    assert!(lease.revoked().is_some());
    // Kept in hand: the place serves others all the same.
    timeout(SOON, sqlx::query("SELECT 1").execute(&db))
        .await
        .unwrap()
        .unwrap();
    drop(lease);
}

#[tokio::test]
async fn a_nested_acquire_of_an_exhausted_pool_fails_fast_and_names_both_sites() {
    let rig = rig().await;
    let (db, mut events) = watched(&rig, 1, Mode::Observe);
    let line = line!() + 1;
    let held = db.acquire().await.unwrap();
    let error = timeout(ms(3_000), db.acquire()).await.expect("fails fast").unwrap_err();
    let Error::Acquire(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.failure, AcquireFailure::Nested);
    let text = error.to_string();
    for line in [line, line + 1] {
        assert!(text.contains(&format!("leaks.rs:{line}")), "{text}");
    }
    let told = event(&mut events, |event| match event {
        Event::NestedAcquire { refused, holds, .. } => Some((*refused, *holds)),
        _ => None,
    });
    let (refused, holds) = told.await;
    assert!(refused && holds.unwrap().line() == line);
    // The same through the executor, inside a transaction of an exhausted pool.
    drop(held);
    let tx = db.begin().await.unwrap();
    let error = sqlx::query("SELECT 1").execute(&db).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::Acquire(error) if error.failure == AcquireFailure::Nested));
    tx.commit().await.unwrap();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
}

#[tokio::test]
async fn futures_joined_in_one_task_are_not_nested() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 2, Mode::Observe);
    // Statements: each of them waits for the others of its own task.
    let many = (0..12).map(|_| sqlx::query("SELECT pg_sleep(0.1)").execute(&db));
    for done in futures::future::join_all(many).await {
        done.unwrap();
    }
    // Raw leases that are used: by one statement after the other, and by a long one.
    let short = async {
        let mut lease = db.acquire().await.unwrap();
        for _ in 0..60 {
            sqlx::query("SELECT pg_sleep(0.01)").execute(&mut *lease).await.unwrap();
        }
    };
    let long = async {
        let mut lease = db.acquire().await.unwrap();
        sqlx::query("SELECT pg_sleep(0.6)").execute(&mut *lease).await.unwrap();
    };
    let waits = async {
        yield_now().await;
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
    };
    tokio::join!(short, long, waits);
    assert_eq!(db.leases().counts.nested, 0);
}

#[tokio::test]
async fn other_tasks_leases_are_not_nested() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 1, Mode::Observe);
    let holder = tokio::spawn({
        let db = db.clone();
        async move {
            let lease = db.acquire().await.unwrap();
            sleep(ms(700)).await;
            drop(lease);
        }
    });
    sleep(ms(50)).await;
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    holder.await.unwrap();
    assert_eq!(db.leases().counts.nested, 0);
}

/// A lease that is kept for good, such as one with a lock on it, is no fault as long as others come back.
#[tokio::test]
async fn a_task_that_keeps_a_lease_may_wait_its_turn() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 3, Mode::Observe);
    let kept = db.acquire().await.unwrap();
    let others = (0..8).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                sqlx::query("SELECT pg_sleep(0.06)").execute(&db).await.unwrap();
            }
        })
    });
    let others: Vec<_> = others.collect();
    sleep(ms(30)).await;
    for _ in 0..3 {
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
    }
    futures::future::join_all(others).await;
    assert_eq!(db.leases().counts.nested, 0);
    drop(kept);
}

#[tokio::test]
async fn observing_nested_acquires_and_switching_everything_off() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 1, Mode::Observe);
    let mut config = db.config().as_ref().clone();
    config.leak.nested = Mode::Observe;
    config.pool.acquire_timeout = ms(600);
    db.reload(config.clone()).unwrap();
    let held = db.acquire().await.unwrap();
    let error = db.acquire().await.unwrap_err();
    assert!(matches!(error, Error::Acquire(error) if error.failure == AcquireFailure::TimedOut));
    assert_eq!((db.leases().counts.nested, db.leases().counts.nested_refused), (1, 0));
    drop(held);
    config.leak.mode = Mode::Off;
    db.reload(config).unwrap();
    let before = db.leases().counts.suspected();
    let held = db.acquire().await.unwrap();
    sleep(ms(300)).await;
    assert_eq!(db.leases().open.len(), 0);
    assert_eq!(db.leases().counts.suspected(), before);
    drop(held);
}

/// A backtrace is kept of the next lease of a site that was suspect.
#[tokio::test]
async fn who_leaks_again_leaves_a_backtrace() {
    let rig = rig().await;
    let (db, mut events) = watched(&rig, 3, Mode::Observe);
    let mut found = Vec::new();
    for _ in 0..2 {
        std::mem::forget(db.acquire().await.unwrap());
        found.push(suspect(&mut events).await);
    }
    assert!(found[0].backtrace.is_none());
    let backtrace = found[1].backtrace.as_ref().expect("a backtrace");
    assert!(backtrace.contains("who_leaks_again"), "{backtrace}");
}

#[tokio::test]
async fn a_broken_transaction_is_still_reported_as_aborted() {
    let rig = rig().await;
    let (db, _events) = watched(&rig, 1, Mode::Enforce);
    let mut tx = db.begin().await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.unwrap_err();
    let error = tx.commit().await.unwrap_err();
    assert!(
        matches!(error, Error::Aborted(TransactionAborted::StatementFailed(_))),
        "{error}"
    );
}
