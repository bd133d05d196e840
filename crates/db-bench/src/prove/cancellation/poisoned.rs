//! A `begin()` that is dropped inside its round trip: BEGIN runs on the server, and nobody knows.

use std::time::Duration;

use db_testkit::{Direction, FaultProxy, Postgres};
use sqlx::Executor;
use tokio::time::{Instant, timeout};

use crate::prove::{
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

/// One connection, so that the next caller gets the very same.
const LIMITS: Limits = Limits {
    max: 1,
    acquire: Duration::from_secs(5),
};
/// Each way; wide enough to drop the future while BEGIN travels.
const DELAY: Duration = Duration::from_millis(3);
/// Begins that are measured first, to aim at.
const SAMPLES: u32 = 5;
/// A pool that can't be closed because of what was done to it.
const CLOSING: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Tally {
    cut: u64,
    /// Later callers who were inside somebody else's transaction.
    inside: u64,
    acknowledged: u64,
    lost: u64,
}

pub(crate) async fn run(server: &Postgres, quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let times = if quick { 150 } else { 1500 };
    println!("begin() dropped inside its round trip, then an INSERT by the next caller, {times} x over one connection");
    let proxy = FaultProxy::start(server.addr()).await?;
    let url = proxy.url_for(server);

    let db = rig::db(&url, LIMITS).await?;
    let own = poison(&db, server, &proxy, times).await?;
    say("Db", &own);
    let pool = rig::pool(&url, LIMITS).await?;
    let peer = poison(&pool, server, &proxy, times).await?;
    say("PgPool", &peer);

    let half = times / 4;
    findings.expect(
        "begins dropped half-way",
        own.cut,
        format!("at least {half}"),
        own.cut >= half,
    );
    findings.expect("callers inside a strange transaction", own.inside, 0, own.inside == 0);
    findings.expect("lost inserts", own.lost, 0, own.lost == 0);
    findings.note("PgPool lost inserts", format!("{}/{}", peer.lost, peer.acknowledged));
    Ok(())
}

fn say(name: &str, tally: &Tally) {
    println!(
        "  {name:<6} dropped {}, later callers inside a strange transaction {}, acknowledged inserts {}, of these lost {}",
        tally.cut, tally.inside, tally.acknowledged, tally.lost
    );
}

async fn poison<S: Subject>(subject: &S, server: &Postgres, proxy: &FaultProxy, times: u64) -> anyhow::Result<Tally> {
    let mut admin = server.admin().await?;
    admin
        .execute("DROP TABLE IF EXISTS acknowledged; CREATE TABLE acknowledged (id int8)")
        .await?;
    let mut dice = fastrand::Rng::with_seed(4);
    let mut tally = Tally::default();
    proxy.delay(Direction::Both, DELAY);
    let window = usual(subject).await?;
    for id in 0..times {
        let patience = window.mul_f64(dice.f64());
        tally.cut += u64::from(timeout(patience, subject.begin()).await.is_err());
        // In the simple protocol both clocks stand still within one message, unless a transaction was open before it.
        let insert = format!("INSERT INTO acknowledged VALUES ({id}) RETURNING now() <> statement_timestamp()");
        tally.inside += u64::from(subject.flag(insert).await?);
        tally.acknowledged += 1;
    }
    proxy.heal();
    let _ = timeout(CLOSING, subject.close()).await;
    let stored: i64 = sqlx::query_scalar("SELECT count(DISTINCT id) FROM acknowledged")
        .fetch_one(&mut admin)
        .await?;
    tally.lost = tally.acknowledged.saturating_sub(u64::try_from(stored)?);
    Ok(tally)
}

/// How long a begin takes that follows another call, with the pings of a pool that pings: most of the cuts then come
/// before its end, and many of these inside BEGIN.
async fn usual<S: Subject>(subject: &S) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for _ in 0..SAMPLES {
        subject.flag("SELECT true".to_owned()).await?;
        let since = Instant::now();
        subject.begin().await?;
        sum += since.elapsed();
    }
    Ok(sum / SAMPLES)
}
