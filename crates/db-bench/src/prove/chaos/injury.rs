//! How each fault is done to the servers, and undone.

use std::time::Duration;

use anyhow::Context;
use db_testkit::{CutStyle, Direction, FaultProxy};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::prove::chaos::{
    fault::Fault,
    schedule::Step,
    stage::{Adversary, SOON, Stage},
};

const MS: Duration = Duration::from_millis(1);
const MEAN_BYTES: u64 = 3_000;

impl Stage {
    /// Lets it happen. Returns since when all could be well again, where nothing is left to be undone.
    pub(crate) async fn injure(&mut self, step: Step, hold: Duration) -> anyhow::Result<Option<Instant>> {
        let mut dice = fastrand::Rng::with_seed(step.seed);
        let direction = match dice.u8(0..3) {
            0 => Direction::ToServer,
            1 => Direction::ToClient,
            _ => Direction::Both,
        };
        match step.fault {
            Fault::EndSessions => {
                let end = format!(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app' AND pid % 2 = {}",
                    dice.u8(0..2)
                );
                sqlx::raw_sql(AssertSqlSafe(end))
                    .execute(&mut self.admin().await?)
                    .await?;
                return Ok(Some(Instant::now()));
            }
            Fault::KillBackend => {
                let pid: Option<i32> = sqlx::query_scalar(
                    "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1",
                )
                .fetch_optional(&mut self.admin().await?)
                .await?;
                let pid = pid.context("the role has no session")?;
                self.primary.kill_backend(pid.cast_unsigned()).await?;
                self.primary.wait_ready(SOON).await?;
                return Ok(Some(Instant::now()));
            }
            Fault::KillServer => self.primary.kill().await?,
            Fault::Restart => {
                self.primary.restart().await?;
                return Ok(Some(Instant::now()));
            }
            Fault::Freeze => self.primary.freeze().await?,
            Fault::Cut => self.on_the_way(|way| way.chaos(step.seed, MEAN_BYTES)),
            Fault::Reset => {
                self.on_the_way(|way| way.cut_all(CutStyle::Reset));
                return Ok(Some(Instant::now()));
            }
            Fault::Delay => self.on_the_way(|way| way.delay(Direction::Both, 40 * MS)),
            Fault::Throttle => self.on_the_way(|way| way.throttle(Direction::Both, 20_000)),
            Fault::Blackhole => self.on_the_way(|way| way.blackhole(direction)),
            Fault::HalfOpen => self.on_the_way(FaultProxy::half_open),
            Fault::Refuse => {
                for way in self.ways() {
                    way.close_port().await?;
                    way.cut_all(CutStyle::Reset);
                }
            }
            Fault::Hang => self.on_the_way(|way| {
                way.hang_new();
                way.cut_all(CutStyle::Finish);
            }),
            Fault::Deadlocks => {
                for _ in 0..3 {
                    let (options, seed) = (self.primary.options(), dice.u64(..));
                    self.against(|stopped| lock_the_other_way(options, seed, stopped));
                }
            }
            Fault::Ddl => {
                let options = self.primary.options();
                self.against(|stopped| change_types(options, hold / 5, stopped));
            }
            Fault::ConnectionLimit => {
                let limit = "ALTER ROLE app CONNECTION LIMIT 6; \
                             SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
                sqlx::raw_sql(limit).execute(&mut self.admin().await?).await?;
            }
            Fault::ReplicaLag => self.replica.pause_replay().await?,
            Fault::ReplicaKilled => self.replica.kill().await?,
            Fault::ReplicaFrozen => self.replica.freeze().await?,
            Fault::Failover => {
                self.fail_over(dice.u32(50..500) * MS).await?;
                return Ok(Some(Instant::now()));
            }
            Fault::PoolerRestart => self.pooled.stop_pooler().await?,
            Fault::DiskFull => {
                let mut admin = self.pooled.server.admin().await?;
                if let Some(disk) = &self.pooled.disk {
                    disk.hold_back(true)?;
                }
                let fill = "INSERT INTO filler SELECT repeat('x', 4000) FROM generate_series(1, 4000)";
                // It stays full after the error: what an aborted statement added to a file stays in it.
                let full = sqlx::raw_sql(fill).execute(&mut admin).await;
                anyhow::ensure!(full.is_err(), "the small disk takes 16 MB");
            }
        }
        Ok(None)
    }

    /// Undoes it. Returns when all could be well again.
    pub(crate) async fn heal(&mut self, fault: Fault) -> anyhow::Result<Instant> {
        match fault {
            Fault::EndSessions | Fault::KillBackend | Fault::Restart | Fault::Reset => {}
            Fault::KillServer => self.primary.start_again().await?,
            Fault::Freeze => self.primary.thaw().await?,
            Fault::Cut
            | Fault::Delay
            | Fault::Throttle
            | Fault::Blackhole
            | Fault::HalfOpen
            | Fault::Refuse
            | Fault::Hang => self.on_the_way(FaultProxy::heal),
            Fault::Deadlocks | Fault::Ddl => self.calm().await,
            Fault::ConnectionLimit => {
                let limit = "ALTER ROLE app CONNECTION LIMIT -1";
                sqlx::raw_sql(limit).execute(&mut self.admin().await?).await?;
            }
            Fault::ReplicaLag => self.replica.resume_replay().await?,
            Fault::ReplicaKilled => self.replica.start_again().await?,
            Fault::ReplicaFrozen => self.replica.thaw().await?,
            Fault::Failover => self.rebuild().await?,
            Fault::PoolerRestart => self.pooled.start_pooler().await?,
            Fault::DiskFull => {
                if let Some(disk) = &self.pooled.disk {
                    disk.hold_back(false)?;
                }
                let clear = "TRUNCATE filler; TRUNCATE bulk";
                sqlx::raw_sql(clear)
                    .execute(&mut self.pooled.server.admin().await?)
                    .await?;
            }
        }
        Ok(Instant::now())
    }

    fn on_the_way(&self, mut harm: impl FnMut(&FaultProxy)) {
        for way in self.ways() {
            harm(way);
        }
    }
}

/// Holds the second of two rows while it waits for the first, as the callers do the other way round.
fn lock_the_other_way(options: PgConnectOptions, seed: u64, stopped: watch::Receiver<bool>) -> Adversary {
    Box::pin(async move {
        let mut dice = fastrand::Rng::with_seed(seed);
        let Ok(mut own) = PgConnection::connect_with(&options).await else {
            return;
        };
        while !*stopped.borrow() {
            let lock = "BEGIN; UPDATE hot SET n = n WHERE id = 2; SELECT pg_sleep(0.003); \
                        UPDATE hot SET n = n WHERE id = 1; COMMIT";
            // Being the victim is its business.
            if sqlx::raw_sql(lock).execute(&mut own).await.is_err() {
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut own).await;
            }
            sleep(dice.u32(1..10) * MS).await;
        }
    })
}

fn change_types(options: PgConnectOptions, every: Duration, stopped: watch::Receiver<bool>) -> Adversary {
    Box::pin(async move {
        let Ok(mut own) = PgConnection::connect_with(&options).await else {
            return;
        };
        for change in [
            "ALTER TABLE shape ALTER note TYPE varchar",
            "ALTER TABLE shape ALTER note TYPE text",
        ]
        .iter()
        .cycle()
        {
            // A change that had no luck is one change less.
            let _ = sqlx::raw_sql(*change).execute(&mut own).await;
            sleep(every).await;
            if *stopped.borrow() {
                return;
            }
        }
    })
}
