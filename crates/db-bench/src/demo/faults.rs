//! What goes wrong while the workload runs.

use std::{sync::Arc, time::Duration};

use db_testkit::Postgres;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::demo::APPLICATION;

const PAUSE: Duration = Duration::from_millis(700);
const LIMIT: Duration = Duration::from_secs(5);

/// Ends a random session of the workload every now and then, whatever it is doing.
pub(crate) struct Killer {
    server: Arc<Postgres>,
    dice: fastrand::Rng,
}

impl Killer {
    pub(crate) fn new(server: Arc<Postgres>, seed: u64) -> Self {
        Self {
            server,
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// Until the end; returns how many sessions it has ended.
    pub(crate) async fn run(mut self, mut ended: watch::Receiver<bool>) -> u64 {
        let mut kills = 0;
        loop {
            let pause = PAUSE.mul_f64(0.7 + 0.6 * self.dice.f64());
            tokio::select! {
                _ = ended.wait_for(|end| *end) => return kills,
                () = sleep(pause) => {}
            }
            // A server that is too busy for us is no reason to stop.
            if let Ok(Ok(true)) = timeout(LIMIT, self.kill()).await {
                kills += 1;
            }
        }
    }

    async fn kill(&mut self) -> anyhow::Result<bool> {
        // Anew each time: the server does not always live as long as the workload.
        let mut admin = self.server.admin().await?;
        let mut pids: Vec<i32> =
            sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY pid")
                .bind(APPLICATION)
                .fetch_all(&mut admin)
                .await?;
        if pids.is_empty() {
            return Ok(false);
        }
        let pid = pids.swap_remove(self.dice.usize(0..pids.len()));
        let killed = sqlx::query_scalar("SELECT pg_terminate_backend($1)").bind(pid);
        Ok(killed.fetch_one(&mut admin).await?)
    }
}
