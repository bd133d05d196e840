//! Two replicas whose lag swings between nothing and three seconds, each in its own way.

use std::time::Duration;

use anyhow::Context;
use db_testkit::Postgres;
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

const LONGEST: u64 = 3_000;

pub(crate) struct Swing {
    stop: watch::Sender<bool>,
    delayed: JoinHandle<anyhow::Result<Postgres>>,
    paused: JoinHandle<anyhow::Result<Postgres>>,
    watched: JoinHandle<anyhow::Result<String>>,
}

impl Swing {
    pub(crate) fn start(primary: &Postgres, [one, two]: [Postgres; 2]) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let admins = (primary.socket_url(), one.socket_url(), two.socket_url());
        Ok(Self {
            delayed: tokio::spawn(delay(one, stopped.clone())),
            paused: tokio::spawn(pause(two, stopped.clone())),
            watched: tokio::spawn(observe(admins, stopped)),
            stop,
        })
    }

    /// Ends it; how far the replicas were behind meanwhile.
    pub(crate) async fn stop(self) -> anyhow::Result<String> {
        self.stop.send_replace(true);
        drop((self.delayed.await??, self.paused.await??));
        self.watched.await?
    }
}

/// Waits; `false` when it is over.
async fn goes_on(stopped: &mut watch::Receiver<bool>, ms: u64) -> bool {
    tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => false,
        () = sleep(Duration::from_millis(ms)) => true,
    }
}

/// Shows each commit later than it came, by an amount that changes.
async fn delay(replica: Postgres, mut stopped: watch::Receiver<bool>) -> anyhow::Result<Postgres> {
    let mut calm = false;
    while goes_on(&mut stopped, 700).await {
        calm = !calm;
        let delay = if calm { 0 } else { fastrand::u64(..LONGEST) };
        replica.set_apply_delay(Duration::from_millis(delay)).await?;
    }
    replica.set_apply_delay(Duration::ZERO).await?;
    Ok(replica)
}

/// Stops and goes.
async fn pause(replica: Postgres, mut stopped: watch::Receiver<bool>) -> anyhow::Result<Postgres> {
    loop {
        replica.pause_replay().await?;
        let on = goes_on(&mut stopped, fastrand::u64(..LONGEST)).await;
        replica.resume_replay().await?;
        if !on || !goes_on(&mut stopped, 200 + fastrand::u64(..1000)).await {
            return Ok(replica);
        }
    }
}

/// Measures the lag on the servers themselves.
async fn observe(
    (primary, one, two): (String, String, String),
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<String> {
    use sqlx::Connection;
    let mut primary = PgConnection::connect(&primary).await?;
    let mut replicas = [PgConnection::connect(&one).await?, PgConnection::connect(&two).await?];
    let mut missing: [Option<Instant>; 2] = [None; 2];
    let (mut behind, mut samples, mut longest) = ([0_u64; 2], 0_u64, [Duration::ZERO; 2]);
    while goes_on(&mut stopped, 50).await {
        let written: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
            .fetch_one(&mut primary)
            .await?;
        samples += 1;
        for (i, replica) in replicas.iter_mut().enumerate() {
            let shown: bool = sqlx::query_scalar("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn")
                .bind(&written)
                .fetch_one(replica)
                .await
                .context("a replica does not answer")?;
            if shown {
                missing[i] = None;
            } else {
                behind[i] += 1;
                let since = *missing[i].get_or_insert_with(Instant::now);
                longest[i] = longest[i].max(since.elapsed());
            }
        }
    }
    let share = |i: usize| behind[i] as f64 * 100.0 / samples.max(1) as f64;
    Ok(format!(
        "behind in {:.0} % and {:.0} % of {samples} samples, at a stretch for up to {:.1} and {:.1} s",
        share(0),
        share(1),
        longest[0].as_secs_f64(),
        longest[1].as_secs_f64()
    ))
}
