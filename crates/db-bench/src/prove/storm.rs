//! Callers who give up must not make the pool throw connections away and open new ones.

use std::time::Duration;

use db_testkit::FaultProxy;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const CALLERS: i64 = 400;
const PATIENCE: Duration = Duration::from_millis(100);
const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(5),
};
/// Beside the slots: the pool's control connection, and one that replaces a broken one.
const SPARE: u64 = 2;
/// A query that holds its slot for 10 ms.
const QUERY: &str = "SELECT $1::int8 FROM pg_sleep(0.01)";

#[derive(Default)]
struct Tally {
    served: u64,
    gave_up: u64,
    errors: u64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let rounds = if quick { 1 } else { 3 };
    let storm = Duration::from_secs(5);
    println!(
        "{CALLERS} callers that wait {PATIENCE:?} at most, {} slots, queries of 10 ms, {storm:?}, {rounds} x",
        LIMITS.max
    );
    let server = rig::server().await?;
    let mut findings = Findings::new();
    let (mut most, mut peers_most) = (0, 0);
    let (mut goodput, mut peers_goodput) = (0, 0);
    for _ in 0..rounds {
        // One after the other: they would take each other's processor time.
        let proxy = FaultProxy::start(server.addr()).await?;
        let db = rig::db(&proxy.url_for(&server), LIMITS).await?;
        let tally = shake(&db, storm).await;
        db.close().await;
        most = most.max(proxy.counters().accepted);
        goodput += tally.served;
        say("Db", &tally, proxy.counters().accepted);

        let proxy = FaultProxy::start(server.addr()).await?;
        let pool = rig::pool(&proxy.url_for(&server), LIMITS).await?;
        let tally = shake(&pool, storm).await;
        // Closing waits for each connection that was abandoned on its way.
        let _ = timeout(Duration::from_secs(5), pool.close()).await;
        peers_most = peers_most.max(proxy.counters().accepted);
        peers_goodput += tally.served;
        say("PgPool", &tally, proxy.counters().accepted);
    }
    let allowed = u64::from(LIMITS.max) + SPARE;
    findings.expect(
        "connections opened",
        most,
        format!("at most {allowed}"),
        most <= allowed,
    );
    findings.note("PgPool connections", peers_most);
    let per_second = |served: u64| served / rounds / storm.as_secs();
    findings.note("served per second", per_second(goodput));
    findings.note("PgPool served per second", per_second(peers_goodput));
    Ok(findings.verdict())
}

fn say(name: &str, tally: &Tally, connections: u64) {
    println!(
        "  {name:<6} served {}, gave up {}, errors {}, connections opened {connections}",
        tally.served, tally.gave_up, tally.errors
    );
}

async fn shake<S: Subject>(subject: &S, storm: Duration) -> Tally {
    let end = Instant::now() + storm;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let subject = subject.clone();
        callers.spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < end {
                match timeout(PATIENCE, subject.number(QUERY, caller)).await {
                    Ok(Ok(_)) => tally.served += 1,
                    Ok(Err(_)) => tally.errors += 1,
                    Err(_) => tally.gave_up += 1,
                }
            }
            tally
        });
    }
    let mut sum = Tally::default();
    while let Some(Ok(tally)) = callers.join_next().await {
        sum.served += tally.served;
        sum.gave_up += tally.gave_up;
        sum.errors += tally.errors;
    }
    sum
}
