//! The stream of events: what happens, bounded.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, quiet, rig, until};
use db_stack::{CloseReason, Event};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn tells_what_happens() {
    let rig = rig().await;
    // On a busy machine the first connection takes long enough to be an event of its own.
    let db = rig
        .builder(1)
        .configure(|config| config.pool.slow_acquire = Duration::from_secs(60))
        .build()
        .unwrap();
    let mut events = db.events();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    let first = timeout(SOON, events.next()).await.unwrap().unwrap();
    assert!(matches!(first, Event::Connected { took } if took < SOON), "{first:?}");
    let sleeping = sqlx::query("SELECT pg_sleep(60)").execute(&db);
    assert!(timeout(Duration::from_millis(50), sleeping).await.is_err());
    let second = timeout(SOON, events.next()).await.unwrap().unwrap();
    assert!(
        matches!(second, Event::Quarantined { in_flight: true, .. }),
        "{second:?}"
    );
    timeout(SOON, db.close()).await.unwrap();
    let mut rest = Vec::new();
    while let Some(event) = events.try_next() {
        rest.push(event);
    }
    assert!(
        rest.iter().any(|event| matches!(
            event,
            Event::Closed {
                reason: CloseReason::Closed,
                ..
            }
        )),
        "{rest:?}"
    );
    assert!(
        matches!(rest.last(), Some(Event::PoolClosed { still_out: 0 })),
        "{rest:?}"
    );
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_a_bounded_backlog() {
    let rig = rig().await;
    let db = rig.db(1);
    let (mut slow, mut other) = (db.events(), db.events());
    // Each reload is one event.
    for _ in 0..3000 {
        db.reload(db.config().as_ref().clone()).unwrap();
    }
    for events in [&mut slow, &mut other] {
        let mut seen = 0_u64;
        while events.try_next().is_some() {
            seen += 1;
        }
        assert!(seen <= 1024, "{seen} kept");
        assert_eq!(seen + events.missed(), 3000, "the rest is told as missed");
    }
    // And it goes on hearing.
    db.reload(db.config().as_ref().clone()).unwrap();
    assert!(matches!(
        timeout(SOON, slow.next()).await.unwrap(),
        Some(Event::Reloaded)
    ));
}

#[tokio::test]
async fn it_ends_with_the_database() {
    let rig = rig().await;
    let db = rig.db(1);
    let mut events = db.events();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    quiet(&db).await;
    drop(db);
    until("it has ended", async || {
        timeout(Duration::from_millis(50), events.next())
            .await
            .is_ok_and(|event| event.is_none())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_is_gone_costs_nothing() {
    let rig = rig().await;
    let db = rig.db(1);
    for _ in 0..10 {
        drop(db.events());
    }
    let mut events = db.events();
    db.reload(db.config().as_ref().clone()).unwrap();
    assert!(events.try_next().is_some());
    drop(db);
    // The last handle is gone, and with it whoever could tell.
    while timeout(SOON, events.next()).await.unwrap().is_some() {}
}
