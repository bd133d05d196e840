//! Connections are cut at random bytes, also in the middle of COMMIT: nothing acknowledged is lost, nothing is done twice.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_stack::{Db, Error, Once, TxConn};
use db_testkit::{Cut, FaultProxy, Postgres};
use sqlx::PgConnection;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, APPLICATION, Limits},
};

const WORKERS: u64 = 8;
const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(10),
};
/// The bytes that a connection carries on average, in each direction, before it is cut.
const MEAN_BYTES: u64 = 6_000;
/// One of so many transactions has its COMMIT cut on purpose.
const AIMED: i64 = 25;
/// How long sessions that were cut may take to leave the server.
const LEAVING: Duration = Duration::from_secs(10);

/// What is still to be done, and what was seen.
#[derive(Default)]
struct Books {
    next: AtomicI64,
    ran: AtomicU64,
    found: AtomicU64,
    /// Calls that were made again, by their caller, after an error.
    repeated: AtomicU64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let (transactions, cuts) = if quick { (1_200, 120) } else { (20_000, 2_000) };
    println!(
        "{WORKERS} workers, at least {transactions} write transactions in transaction_once and {cuts} cuts; then as many \
         plain writes"
    );
    let server = rig::server().await?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql("CREATE TABLE effects (n bigint NOT NULL); CREATE TABLE plain (n bigint NOT NULL)")
        .execute(&mut admin)
        .await?;
    sqlx::raw_sql(db_stack::ONCE_TABLE).execute(&mut admin).await?;
    let mut findings = Findings::new();
    once(&server, &mut admin, transactions, cuts, &mut findings).await?;
    plain(&server, &mut admin, transactions / 2, &mut findings).await?;
    Ok(findings.verdict())
}

async fn once(
    server: &Postgres,
    admin: &mut PgConnection,
    transactions: i64,
    cuts: u64,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (proxy, db) = unreliable(server, 1).await?;
    let books = Arc::new(Books::default());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(db.clone(), proxy.clone(), books.clone(), transactions, cuts));
    }
    while let Some(done) = workers.join_next().await {
        done?;
    }
    let made = proxy.counters().cuts;
    proxy.heal();
    let stats = db.retries();
    db.close().await;
    gone(admin).await?;
    let acknowledged = books.next.load(Ordering::Relaxed);
    let rows: HashMap<i64, i64> = rows(admin, "SELECT n, count(*) FROM effects GROUP BY n").await?;
    let lost = (0..acknowledged).filter(|n| !rows.contains_key(n)).count();
    let doubled = rows.values().filter(|copies| **copies > 1).count();
    println!(
        "  transaction_once: ran {}, found done {}, called again {}, cuts {made}, reruns {}, deadlocks {}",
        books.ran.load(Ordering::Relaxed),
        books.found.load(Ordering::Relaxed),
        books.repeated.load(Ordering::Relaxed),
        stats.retries(),
        stats.transactions.deadlocks,
    );
    findings.expect("cuts", made, format!("at least {cuts}"), made >= cuts);
    findings.expect(
        "transactions",
        acknowledged,
        format!("at least {transactions}"),
        acknowledged >= transactions,
    );
    findings.expect("acknowledged and lost", lost, "0", lost == 0);
    findings.expect("doubled", doubled, "0", doubled == 0);
    let found = books.found.load(Ordering::Relaxed);
    findings.expect("found done by their token", found, "more than 0", found > 0);
    Ok(())
}

/// Each number once, with the same key until it is acknowledged, as a client does that was told "unknown".
async fn work(db: Db, proxy: Arc<FaultProxy>, books: Arc<Books>, transactions: i64, cuts: u64) {
    loop {
        if books.next.load(Ordering::Relaxed) >= transactions && proxy.counters().cuts >= cuts {
            return;
        }
        let n = books.next.fetch_add(1, Ordering::Relaxed);
        if n % AIMED == 0 {
            proxy.cut_at(match n / AIMED % 3 {
                0 => Cut::before("COMMIT"),
                1 => Cut::after("COMMIT"),
                _ => Cut::after_reply("COMMIT"),
            });
        }
        loop {
            let done = db.transaction_once(&n.to_string(), async move |tx: &mut TxConn| {
                sqlx::query("INSERT INTO effects VALUES ($1)")
                    .bind(n)
                    .execute(&mut *tx)
                    .await?;
                Ok::<_, Error>(())
            });
            match done.await {
                Ok(Once::Ran(())) => books.ran.fetch_add(1, Ordering::Relaxed),
                Ok(Once::AlreadyCommitted) => books.found.fetch_add(1, Ordering::Relaxed),
                Err(_) => {
                    books.repeated.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            break;
        }
    }
}

/// Without a token an error may surface, and nothing is doubled over it.
async fn plain(
    server: &Postgres,
    admin: &mut PgConnection,
    writes: i64,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (proxy, db) = unreliable(server, 2).await?;
    let next = Arc::new(AtomicI64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (db, next) = (db.clone(), next.clone());
        workers.spawn(async move {
            let (mut acknowledged, mut errors) = (Vec::new(), 0_u64);
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= writes {
                    return (acknowledged, errors);
                }
                match sqlx::query("INSERT INTO plain VALUES ($1)").bind(n).execute(&db).await {
                    Ok(_) => acknowledged.push(n),
                    Err(_) => errors += 1,
                }
            }
        });
    }
    let (mut acknowledged, mut errors) = (Vec::new(), 0);
    while let Some(done) = workers.join_next().await {
        let (some, failed) = done?;
        acknowledged.extend(some);
        errors += failed;
    }
    let cuts = proxy.counters().cuts;
    proxy.heal();
    db.close().await;
    gone(admin).await?;
    let rows = rows(admin, "SELECT n, count(*) FROM plain GROUP BY n").await?;
    let lost = acknowledged.iter().filter(|n| !rows.contains_key(n)).count();
    let doubled = rows.values().filter(|copies| **copies > 1).count();
    println!("  plain writes: {writes}, errors {errors}, cuts {cuts}");
    findings.expect("plain writes acknowledged and lost", lost, "0", lost == 0);
    findings.expect("plain writes doubled", doubled, "0", doubled == 0);
    findings.expect("plain cuts", cuts, "more than 0", cuts > 0);
    Ok(())
}

async fn unreliable(server: &Postgres, seed: u64) -> anyhow::Result<(Arc<FaultProxy>, Db)> {
    let proxy = Arc::new(FaultProxy::start(server.addr()).await?);
    let db = Db::builder()
        .url(&proxy.url_for(server))
        .max_connections(LIMITS.max)
        .configure(|config| {
            config.pool.acquire_timeout = LIMITS.acquire;
            config.pool.drain_timeout = Duration::from_secs(3);
            // The network is what fails here, and it is back at once.
            config.pool.connect_backoff_base = Duration::from_millis(1);
            config.pool.connect_backoff_cap = Duration::from_millis(5);
            config.retry.base_delay = Duration::from_millis(5);
            config.retry.budget_ratio = 0.5;
            config.session.application_name = APPLICATION.to_owned();
        });
    let db = db.connect().await.context("Db does not connect")?;
    proxy.chaos(seed, MEAN_BYTES);
    Ok((proxy, db))
}

async fn rows(admin: &mut PgConnection, sql: &'static str) -> sqlx::Result<HashMap<i64, i64>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(admin).await?;
    Ok(rows.into_iter().collect())
}

/// A session that was cut inside COMMIT may still be at it.
async fn gone(admin: &mut PgConnection) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1")
            .bind(APPLICATION)
            .fetch_one(&mut *admin)
            .await?;
        if left == 0 {
            return Ok(());
        }
        ensure!(since.elapsed() < LEAVING, "{left} sessions did not leave the server");
        sleep(Duration::from_millis(20)).await;
    }
}
