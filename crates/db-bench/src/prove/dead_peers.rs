//! Peers that die without a word while their leases are in use: the permits must come back.

use std::time::Duration;

use anyhow::ensure;
use db_testkit::{Direction, Fault, FaultProxy, Postgres, Scope};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const LIMITS: Limits = Limits {
    max: 4,
    acquire: Duration::from_secs(2),
};
/// Long enough that all queries are on the wire when it goes dead.
const ON_THE_WIRE: Duration = Duration::from_millis(200);
/// When the callers of the dead queries stop waiting.
const PATIENCE: Duration = Duration::from_millis(400);
const WAVES: usize = 5;
const PER_WAVE: usize = 5;

struct Outcome {
    served: usize,
    first: Option<Duration>,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let rounds = if quick { 1 } else { 5 };
    let all = WAVES * PER_WAVE;
    println!(
        "{0} of {0} leases in use go silent, new connections work; then {all} acquires with {1:?} each, {rounds} x",
        LIMITS.max, LIMITS.acquire
    );
    let server = rig::server().await?;
    let mut findings = Findings::new();
    let mut fewest = all;
    let mut slowest = Some(Duration::ZERO);
    let mut peers_most = 0;
    for _ in 0..rounds {
        let proxy = FaultProxy::start(server.addr()).await?;
        let db = rig::db(&proxy.url_for(&server), LIMITS).await?;
        let outcome = bury(&db, &proxy, &server).await?;
        fewest = fewest.min(outcome.served);
        // One round without any success makes it "never".
        slowest = slowest.zip(outcome.first).map(|(slowest, first)| slowest.max(first));
        say("Db", &outcome);
        db.close().await;

        let proxy = FaultProxy::start(server.addr()).await?;
        let pool = rig::pool(&proxy.url_for(&server), LIMITS).await?;
        let outcome = bury(&pool, &proxy, &server).await?;
        peers_most = peers_most.max(outcome.served);
        say("PgPool", &outcome);
        // Its dead connections never come back, so closing it in order would wait for ever.
    }
    findings.expect(
        "acquires served",
        format!("{fewest}/{all}"),
        format!("{all}/{all}"),
        fewest == all,
    );
    findings.note(
        "first success after",
        slowest.map_or("never".to_owned(), |first| format!("{} ms", first.as_millis())),
    );
    findings.note("PgPool acquires served", format!("{peers_most}/{all}"));
    Ok(findings.verdict())
}

fn say(name: &str, outcome: &Outcome) {
    let first = outcome.first.map_or("never".to_owned(), |first| format!("{first:.0?}"));
    println!("  {name:<6} served {}, first success after {first}", outcome.served);
}

async fn bury<S: Subject>(subject: &S, proxy: &FaultProxy, server: &Postgres) -> anyhow::Result<Outcome> {
    let dying: Vec<_> = (0..LIMITS.max)
        .map(|caller| {
            let subject = subject.clone();
            tokio::spawn(async move {
                let query = subject.number("SELECT $1::int8 FROM pg_sleep(60)", caller.into());
                timeout(PATIENCE, query).await.is_err()
            })
        })
        .collect();
    sleep(ON_THE_WIRE).await;
    ensure!(sleepers(server).await? == i64::from(LIMITS.max), "not all queries run");
    proxy.inject(Fault::Blackhole, Direction::Both, Scope::Present);
    for caller in dying {
        ensure!(caller.await?, "a query on a dead wire was answered");
    }
    let since = Instant::now();
    let mut outcome = Outcome { served: 0, first: None };
    for _ in 0..WAVES {
        let wave = (0..PER_WAVE).map(|_| async {
            let answer = subject.number("SELECT $1::int8", 1).await;
            answer.ok().map(|_| since.elapsed())
        });
        let served: Vec<_> = join_all(wave).await.into_iter().flatten().collect();
        outcome.served += served.len();
        outcome.first = outcome.first.or_else(|| served.into_iter().min());
    }
    // Nobody else will: the server can't see that these clients are gone.
    let mut admin = server.admin().await?;
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()")
        .execute(&mut admin)
        .await?;
    Ok(outcome)
}

async fn sleepers(server: &Postgres) -> anyhow::Result<i64> {
    let mut admin = server.admin().await?;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()",
    );
    Ok(count.fetch_one(&mut admin).await?)
}
