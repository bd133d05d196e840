//! Streaming standbys.

use std::{net::SocketAddr, time::Duration};

use sqlx::Connection;
use tokio::time::{Instant, sleep};

use crate::{cluster::unique, error::ServerError, home::Home, postgres::Postgres, process_tree::POLL, recipe};

/// How long a promotion or a change of the replay may take.
const CHANGE: Duration = Duration::from_secs(10);

impl Postgres {
    /// A streaming standby of this server, ready for reading, in some half a second.
    ///
    /// It follows through the Unix socket and a replication slot of its own, and has all fault methods of a server.
    /// Cancel safe: dropping the future removes what was made, except for the slot.
    ///
    /// # Errors
    /// [`StartError::MissingTool`](crate::StartError::MissingTool) without `pg_basebackup`, else those of a start.
    pub async fn replica(&self) -> Result<Self, ServerError> {
        let dir = self.home.dir().to_string_lossy().into_owned();
        self.follow(format!("host={} port={}", keyword(&dir), self.port)).await
    }

    /// Like [`replica`](Self::replica), but following through `addr`, a [`FaultProxy`](crate::FaultProxy) before this
    /// server, so that faults can befall the replication.
    ///
    /// # Errors
    /// As for [`replica`](Self::replica).
    pub async fn replica_through(&self, addr: SocketAddr) -> Result<Self, ServerError> {
        self.follow(format!("host={} port={}", addr.ip(), addr.port())).await
    }

    async fn follow(&self, primary: String) -> Result<Self, ServerError> {
        let program = self.binaries.tool("pg_basebackup")?;
        let home = Home::create(self.account, self.recipe.durable)?;
        let mut backup = recipe::tool(&program, self.account, &home);
        let mut conninfo = format!("{primary} user=postgres sslmode=disable");
        if let Some(password) = &self.recipe.password {
            conninfo.push_str(&format!(" password={}", keyword(password)));
        }
        backup.args([
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-C",
            "-S",
            &unique("replica"),
            "-d",
            &conninfo,
        ]);
        backup.arg("-D").arg(home.data());
        recipe::run("pg_basebackup", backup).await?;
        Ok(Self::launch(self.recipe.clone(), self.account, self.binaries.clone(), home).await?)
    }

    /// Makes a standby a primary and waits until it takes writes.
    ///
    /// # Errors
    /// When it is no standby, can't be reached or is not done within 10 s.
    pub async fn promote(&self) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        let done: bool = sqlx::query_scalar("SELECT pg_promote(true, 10)")
            .fetch_one(&mut admin)
            .await?;
        admin.close().await?;
        if done {
            Ok(())
        } else {
            Err(self.timed_out("the promotion", CHANGE))
        }
    }

    /// Whether it is a standby.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn is_standby(&self) -> Result<bool, ServerError> {
        let mut admin = self.admin().await?;
        let standby = sqlx::query_scalar("SELECT pg_is_in_recovery()")
            .fetch_one(&mut admin)
            .await?;
        admin.close().await?;
        Ok(standby)
    }

    /// Makes a standby show commits `delay` after the primary's (`recovery_min_apply_delay`, whole milliseconds).
    ///
    /// # Errors
    /// When it refuses or can't be reached.
    pub async fn set_apply_delay(&self, delay: Duration) -> Result<(), ServerError> {
        self.alter_system("recovery_min_apply_delay", &delay.as_millis().to_string())
            .await?;
        self.reload().await
    }

    /// Stops the replay on a standby, exactly and until [`resume_replay`](Self::resume_replay); it still receives.
    ///
    /// # Errors
    /// When it is no standby, can't be reached or has not paused within 10 s.
    pub async fn pause_replay(&self) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        sqlx::query("SELECT pg_wal_replay_pause()").execute(&mut admin).await?;
        // Asking is not pausing: one more record may be replayed meanwhile.
        let state = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
        let deadline = Instant::now() + CHANGE;
        while !sqlx::query_scalar::<_, bool>(state).fetch_one(&mut admin).await? {
            if Instant::now() >= deadline {
                return Err(self.timed_out("pausing the replay", CHANGE));
            }
            sleep(POLL).await;
        }
        Ok(admin.close().await?)
    }

    /// Goes on with the replay on a standby.
    ///
    /// # Errors
    /// When it is no standby or can't be reached.
    pub async fn resume_replay(&self) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        sqlx::query("SELECT pg_wal_replay_resume()").execute(&mut admin).await?;
        Ok(admin.close().await?)
    }

    /// Waits until this standby has replayed all that `primary` has written so far.
    ///
    /// # Errors
    /// [`ServerError::TimedOut`] when it has not within `within`, or when one of the two can't be reached.
    pub async fn wait_caught_up(&self, primary: &Self, within: Duration) -> Result<(), ServerError> {
        let mut admin = primary.admin().await?;
        let target: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
            .fetch_one(&mut admin)
            .await?;
        admin.close().await?;
        let mut admin = self.admin().await?;
        let deadline = Instant::now() + within;
        let sql = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)";
        while !sqlx::query_scalar::<_, bool>(sql)
            .bind(&target)
            .fetch_one(&mut admin)
            .await?
        {
            if Instant::now() >= deadline {
                return Err(self.timed_out("catching up", within));
            }
            sleep(POLL).await;
        }
        Ok(admin.close().await?)
    }
}

/// A value in a libpq connection string.
fn keyword(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}
