//! Real faults, several at a time, each for as long as two scrapes and an evaluation need.

use std::time::Duration;

use anyhow::Context;
use db_stack::{Db, QueryClass};
use db_testkit::Postgres;
use tokio::time::{Instant, sleep};

/// Prometheus scrapes and evaluates once a second.
const SPAN: Duration = Duration::from_secs(5);

/// All faults one after the other; afterwards everything is well again.
pub(crate) async fn drive(db: &Db, server: &Postgres) -> anyhow::Result<()> {
    exhausted(db).await?;
    failing(db).await;
    slow(db).await;
    down(db, server).await
}

/// Every connection is held, and others want one.
async fn exhausted(db: &Db) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for _ in 0..db.stats().max {
        held.push(db.acquire().await.context("a connection to hold")?);
    }
    // In tasks of their own: one that holds a connection and waits for another is refused at once, as nested.
    let caller = || {
        let db = db.clone();
        tokio::spawn(async move { sqlx::query("SELECT 1").execute(&db).await.is_ok() })
    };
    let end = Instant::now() + SPAN;
    while Instant::now() < end {
        // Three wait in vain; the fourth is served late, when one is given back.
        futures::future::join_all([caller(), caller(), caller()]).await;
        let late = caller();
        sleep(Duration::from_millis(200)).await;
        held.pop();
        late.await?;
        if let Ok(lease) = db.acquire().await {
            held.push(lease);
        }
    }
    Ok(())
}

/// Calls that the server refuses.
async fn failing(db: &Db) {
    let end = Instant::now() + SPAN;
    while Instant::now() < end {
        let _ = sqlx::query("SELECT * FROM no_such_table").execute(db).await;
        sleep(Duration::from_millis(25)).await;
    }
}

/// Calls that take longer than their class should, and calls that reach their limit.
async fn slow(db: &Db) {
    let end = Instant::now() + SPAN;
    let (fast, short) = (db.class(QueryClass::Fast), db.timeout(Duration::from_millis(50)));
    while Instant::now() < end {
        let over = sqlx::query("SELECT pg_sleep(0.7)");
        let longer = || sqlx::query("SELECT pg_sleep(1.4)").execute(db);
        let lost = sqlx::query("SELECT pg_sleep(0.4)");
        // Two of four are slow: a twentieth is what the alert asks for, and calls of the fault before are still seen.
        let _ = tokio::join!(over.execute(&fast), longer(), longer(), lost.execute(&short));
    }
}

/// No server.
async fn down(db: &Db, server: &Postgres) -> anyhow::Result<()> {
    server.stop_immediate().await?;
    let end = Instant::now() + SPAN;
    while Instant::now() < end {
        let _ = sqlx::query("SELECT 1").execute(db).await;
        sleep(Duration::from_millis(50)).await;
    }
    server.start_again().await?;
    Ok(())
}

/// What a service does when all is well, for half a second.
pub(crate) async fn calm(db: &Db) {
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let _ = sqlx::query("SELECT 1").execute(db).await;
        if let Ok(tenant) = db.tenant("acme") {
            let _ = sqlx::query("SELECT count(*) FROM pg_class").fetch_one(&tenant).await;
        }
        sleep(Duration::from_millis(5)).await;
    }
}
