//! Pairs of a write and a read over replicas whose lag swings: no read shows the past.

mod reader;
pub(super) mod swing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::Db;
use db_testkit::Postgres;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{
    Verdict,
    causality::{reader::Reader, swing::Swing},
    findings::Findings,
};

const SESSIONS: u64 = 16;
/// With this little lag most reads must be served by replicas.
const SMALL_LAG: Duration = Duration::from_millis(20);
const SHARE: f64 = 0.8;
const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    // The other process of this proof is this program again.
    if let Ok(urls) = std::env::var(reader::URLS) {
        return reader::serve(&urls).await;
    }
    let pairs: u64 = if quick { 4_000 } else { 20_000 };
    let primary = Postgres::start().await.context("no throwaway PostgreSQL")?;
    let replicas = [primary.replica().await?, primary.replica().await?];
    let urls: Vec<String> = replicas.iter().map(Postgres::url).collect();
    let db = connect(&primary.url(), &urls.join(",")).await?;
    sqlx::raw_sql(
        "CREATE TABLE pair (id int8 PRIMARY KEY, n int8); INSERT INTO pair SELECT g, 0 FROM generate_series(0, 63) g",
    )
    .execute(&db)
    .await?;
    for replica in &replicas {
        replica.wait_caught_up(&primary, SOON).await?;
    }
    println!("{SESSIONS} sessions write a row and read it back over 2 replicas, {pairs} pairs each way");
    let mut findings = Findings::new();

    for replica in &replicas {
        replica.set_apply_delay(SMALL_LAG).await?;
    }
    let calm = in_process(&db, pairs / 4).await?;
    let share = calm.share();
    findings.expect(
        &format!("share served by replicas that are {} ms behind", SMALL_LAG.as_millis()),
        format!("{:.1} %", share * 100.0),
        format!("over {:.0} %", SHARE * 100.0),
        share > SHARE,
    );

    let swing = Swing::start(&primary, replicas)?;
    let swung = in_process(&db, pairs).await?;
    println!("  in process: {swung}");
    let reader = Reader::spawn(&primary.url(), &urls.join(","))?;
    let tokens = by_token(&db, reader, pairs).await?;
    println!("  by token:   {tokens}");
    println!("  replicas:   {}", swing.stop().await?);
    let all = calm.pairs + swung.pairs + tokens.pairs;
    let stale = calm.stale + swung.stale + tokens.stale;
    let backwards = calm.backwards + swung.backwards + tokens.backwards;
    findings.expect(&format!("stale reads in {all} pairs"), stale, "0", stale == 0);
    findings.expect("reads that went backwards", backwards, "0", backwards == 0);
    findings.note(
        "share served by replicas with the lag swinging",
        format!("{:.1} %", swung.share() * 100.0),
    );
    findings.note("pair p50 and p99, 20 ms lag", calm.times());
    findings.note("pair p50 and p99, swinging", swung.times());
    db.close().await;
    Ok(findings.verdict())
}

/// A database with these replicas, watched, with reads on the primary and on replicas within the same limits.
async fn connect(primary: &str, replicas: &str) -> anyhow::Result<Db> {
    let db = Db::builder().url(primary).max_connections(10).configure(|config| {
        config.replica.urls = replicas.into();
        config.pool.acquire_timeout = SOON;
        config.replica.fallback_wait = Duration::from_secs(10);
        config.timeout.normal.timeout = SOON;
    });
    let db = db.connect().await.context("Db does not connect")?;
    ensure!(db.nodes_ready(SOON).await, "the replicas do not answer");
    Ok(db)
}

/// What came of the pairs.
#[derive(Default)]
struct Outcome {
    pairs: u64,
    stale: u64,
    backwards: u64,
    on_replicas: u64,
    on_primary: u64,
    micros: Vec<u64>,
}

impl Outcome {
    fn share(&self) -> f64 {
        self.on_replicas as f64 / (self.on_replicas + self.on_primary).max(1) as f64
    }

    fn times(&self) -> String {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = (sorted.len() as f64 * share) as usize;
            sorted
                .get(index.min(sorted.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default() as f64
                / 1000.0
        };
        format!("{:.1} and {:.1} ms", at(0.5), at(0.99))
    }

    fn add(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.stale += other.stale;
        self.backwards += other.backwards;
        self.micros.extend(other.micros);
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pairs, {} stale, {} backwards; {} reads on replicas, {} on the primary ({:.1} % on replicas); pair {}",
            self.pairs,
            self.stale,
            self.backwards,
            self.on_replicas,
            self.on_primary,
            self.share() * 100.0,
            self.times()
        )
    }
}

async fn write(db: &Db, id: u64, n: i64) -> sqlx::Result<()> {
    let write = sqlx::query("UPDATE pair SET n = $2 WHERE id = $1")
        .bind(id as i64)
        .bind(n);
    write.execute(db).await.map(drop)
}

async fn read(db: &Db, id: u64) -> sqlx::Result<i64> {
    let read = sqlx::query_scalar("SELECT n FROM pair WHERE id = $1").bind(id as i64);
    read.fetch_one(db).await
}

/// Each session writes its own row and reads it back, and now and then another session's, twice.
async fn in_process(db: &Db, pairs: u64) -> anyhow::Result<Outcome> {
    let before = db.replicas();
    let left = Arc::new(AtomicU64::new(pairs));
    let mut sessions = JoinSet::new();
    for id in 0..SESSIONS {
        sessions.spawn(session(db.clone(), id, left.clone()));
    }
    let mut outcome = Outcome::default();
    while let Some(done) = sessions.join_next().await {
        outcome.add(done??);
    }
    let after = db.replicas();
    outcome.on_replicas = after.replica_reads - before.replica_reads;
    outcome.on_primary = after.fallbacks - before.fallbacks;
    Ok(outcome)
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
}

async fn session(db: Db, id: u64, left: Arc<AtomicU64>) -> anyhow::Result<Outcome> {
    let db = db.session();
    let mut outcome = Outcome::default();
    let mut n = read(&db.primary(), id).await?;
    let mut seen = [0_i64; SESSIONS as usize];
    while take(&left) {
        n += 1;
        let since = Instant::now();
        write(&db, id, n).await?;
        let found = read(&db, id).await?;
        outcome.micros.push(since.elapsed().as_micros() as u64);
        outcome.pairs += 1;
        outcome.stale += u64::from(found != n);
        let other = fastrand::u64(..SESSIONS);
        for _ in 0..2 {
            let found = read(&db, other).await?;
            let last = &mut seen[other as usize];
            outcome.backwards += u64::from(found < *last);
            *last = found.max(*last);
        }
        // Without a pause 16 sessions only measure the machine.
        sleep(Duration::from_millis(fastrand::u64(..4))).await;
    }
    Ok(outcome)
}

/// Each session writes here, and its token is read in the other process, whose answer's token is read here again.
async fn by_token(db: &Db, reader: Reader, pairs: u64) -> anyhow::Result<Outcome> {
    let left = Arc::new(AtomicU64::new(pairs));
    let reader = Arc::new(reader);
    let mut sessions = JoinSet::new();
    for id in 0..SESSIONS {
        let (db, left, reader) = (db.clone(), left.clone(), reader.clone());
        sessions.spawn(async move {
            let mut outcome = Outcome::default();
            let mut n = read(&db.primary(), id).await?;
            while take(&left) {
                n += 1;
                let since = Instant::now();
                let here = db.session();
                write(&here, id, n).await?;
                let token = here.token().await?.context("a session that wrote has a token")?;
                let answer = reader.ask(id, token).await?;
                outcome.micros.push(since.elapsed().as_micros() as u64);
                outcome.pairs += 1;
                outcome.stale += u64::from(answer.n != n);
                if outcome.pairs % 4 == 0 {
                    let back = db.session_from(answer.token);
                    outcome.backwards += u64::from(read(&back, id).await? < answer.n);
                }
            }
            anyhow::Ok(outcome)
        });
    }
    let mut outcome = Outcome::default();
    while let Some(done) = sessions.join_next().await {
        outcome.add(done??);
    }
    let reader = Arc::into_inner(reader).context("a session still asks")?;
    (outcome.on_replicas, outcome.on_primary) = reader.finish().await?;
    Ok(outcome)
}
