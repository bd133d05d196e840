//! A run of everything that holds leases for good reasons: nothing of it may be called a leak.

use std::time::Duration;

use anyhow::Context;
use db_stack::{Db, QueryClass};
use sqlx::Connection;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::THRESHOLD;
use crate::prove::{findings::Findings, rig};

/// Well below the threshold, on a machine that may stall for as long again.
const LONGEST: Duration = Duration::from_millis(60);

pub(super) async fn run(url: &str, quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let span = Duration::from_secs(if quick { 8 } else { 300 });
    println!(
        "a mixed run of {span:?}: statements, transactions, raw leases, joined futures, batches; pool exhausted throughout"
    );
    let db = Db::builder().url(url).max_connections(6).configure(|config| {
        config.session.application_name = rig::APPLICATION.to_owned();
        config.pool.acquire_timeout = Duration::from_secs(60);
        config.leak.threshold = 4 * THRESHOLD;
    });
    let db = db.connect().await.context("Db does not connect")?;
    sqlx::query("CREATE TABLE IF NOT EXISTS mixed (id int PRIMARY KEY, n int NOT NULL)")
        .execute(&db)
        .await?;
    sqlx::query("INSERT INTO mixed SELECT i, 0 FROM generate_series(0, 63) AS i ON CONFLICT DO NOTHING")
        .execute(&db)
        .await?;
    let until = Instant::now() + span;
    let mut tasks = JoinSet::new();
    for number in 0..12 {
        tasks.spawn(work(db.clone(), number, until));
    }
    let mut acts = 0_u64;
    while let Some(done) = tasks.join_next().await {
        acts += done.context("a task panicked")??;
    }
    let leases = db.leases();
    findings.note("acts of the mixed run", acts);
    findings.note("leases of the mixed run", leases.use_times.count());
    let suspects = leases.counts.suspected();
    findings.expect("false alarms", suspects, "0", suspects == 0);
    let nested = leases.counts.nested;
    findings.expect("false nested acquires", nested, "0", nested == 0);
    db.close().await;
    Ok(())
}

async fn work(db: Db, number: u64, until: Instant) -> anyhow::Result<u64> {
    let mut random = fastrand::Rng::with_seed(number);
    let mut acts = 0;
    while Instant::now() < until {
        let id = random.i32(0..64);
        let pause = LONGEST.mul_f64(random.f64());
        let seconds = pause.as_secs_f64();
        match random.u32(0..6) {
            0 => drop(
                sqlx::query("SELECT n FROM mixed WHERE id = $1")
                    .bind(id)
                    .fetch_one(&db)
                    .await?,
            ),
            1 => {
                let mut tx = db.begin().await?;
                sqlx::query("UPDATE mixed SET n = n + 1 WHERE id = $1")
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
                sleep(pause / 4).await;
                tx.commit().await?;
            }
            2 => {
                let mut lease = db.acquire().await?;
                for _ in 0..3 {
                    lease.ping().await?;
                    sleep(pause / 8).await;
                }
            }
            3 => {
                let many = (0..8).map(|_| sqlx::query("SELECT pg_sleep($1)").bind(seconds / 8.0).execute(&db));
                for done in futures::future::join_all(many).await {
                    done?;
                }
            }
            4 => {
                sqlx::query("SELECT pg_sleep($1)").bind(seconds).execute(&db).await?;
            }
            // Longer than the threshold, and allowed to.
            _ if number == 0 => {
                let batch = db.class(QueryClass::Batch);
                sqlx::query("SELECT pg_sleep(2.2)").execute(&batch).await?;
            }
            _ => sleep(pause).await,
        }
        acts += 1;
    }
    Ok(acts)
}
