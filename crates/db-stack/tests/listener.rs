//! LISTEN that survives its connection and says that it was away.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{Admin, SOON, rig, until};
use db_stack::{Listener, Message};
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn next(listener: &mut Listener) -> String {
    match timeout(SOON, listener.recv()).await.unwrap().unwrap() {
        Message::Notification(heard) => format!("{}: {}", heard.channel(), heard.payload()),
        Message::Reconnected => "reconnected".to_owned(),
    }
}

async fn say(admin: &mut Admin, channel: &str, text: &str) {
    admin.run(&format!("SELECT pg_notify('{channel}', '{text}')")).await;
}

#[tokio::test]
async fn hears_what_it_listens_to() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let db = rig.db(2);
    let mut listener = db.listener().await.unwrap();
    listener.listen("orders").await.unwrap();
    listener.listen("Quotes and \"more\"").await.unwrap();
    say(&mut admin, "other", "0").await;
    say(&mut admin, "orders", "1").await;
    say(&mut admin, "Quotes and \"more\"", "2").await;
    assert_eq!(next(&mut listener).await, "orders: 1");
    assert_eq!(next(&mut listener).await, "Quotes and \"more\": 2");
    listener.unlisten("orders").await.unwrap();
    say(&mut admin, "orders", "3").await;
    say(&mut admin, "Quotes and \"more\"", "4").await;
    assert_eq!(next(&mut listener).await, "Quotes and \"more\": 4");
}

/// The only connection of the budget: its place must be free again at once.
#[tokio::test]
async fn says_that_it_was_away_and_listens_on() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    let mut listener = db.listener().await.unwrap();
    listener.listen("orders").await.unwrap();
    listener.listen("quotes").await.unwrap();
    listener.unlisten("quotes").await.unwrap();
    for round in 0..3 {
        say(&mut admin, "orders", "before").await;
        assert_eq!(next(&mut listener).await, "orders: before");
        admin.terminate_all().await;
        // Said while nobody listened: lost, and that is what the message means.
        say(&mut admin, "orders", "lost").await;
        let cut = tokio::time::Instant::now();
        assert_eq!(next(&mut listener).await, "reconnected", "round {round}");
        assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
        say(&mut admin, "quotes", "not for us").await;
        say(&mut admin, "orders", "after").await;
        assert_eq!(next(&mut listener).await, "orders: after");
    }
}

#[tokio::test]
async fn counts_against_the_budget_and_gives_its_place_back() {
    let rig = rig().await;
    let db = rig
        .builder(2)
        .configure(|config| config.pool.acquire_timeout = Duration::from_millis(400))
        .build()
        .unwrap();
    let listener = db.listener().await.unwrap();
    assert_eq!(db.stats().lent, 1);
    let _lease = db.acquire().await.unwrap();
    db.acquire().await.expect_err("the listener has the other one");
    drop(listener);
    until("it is back", async || db.stats().lent == 0).await;
    drop(timeout(SOON, db.acquire()).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_dropped_recv_loses_nothing() {
    let rig = rig().await;
    let mut admin = rig.admin().await;
    let db = rig.db(1);
    let mut listener = db.listener().await.unwrap();
    listener.listen("orders").await.unwrap();
    for n in 0..20 {
        assert!(timeout(Duration::from_millis(1), listener.recv()).await.is_err());
        say(&mut admin, "orders", &n.to_string()).await;
        if n % 2 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(next(&mut listener).await, format!("orders: {n}"));
    }
}

#[tokio::test]
async fn ends_with_the_database() {
    let rig = rig().await;
    let db = rig
        .builder(2)
        .configure(|config| config.pool.drain_timeout = Duration::from_millis(300))
        .build()
        .unwrap();
    let mut listener = db.listener().await.unwrap();
    listener.listen("orders").await.unwrap();
    let waiting = tokio::spawn(async move { listener.recv().await.map(drop) });
    sleep(Duration::from_millis(20)).await;
    timeout(SOON, db.close()).await.unwrap();
    assert!(timeout(SOON, waiting).await.unwrap().unwrap().is_err());
}
