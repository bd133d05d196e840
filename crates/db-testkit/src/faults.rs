//! What can befall a running server.

use std::time::Duration;

use rustix::process::Signal;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{execute, identifier, literal},
    error::ServerError,
    postgres::Postgres,
    process_tree::{self, POLL, Settled},
};

/// How long a signal may take to show its effect.
const EFFECT: Duration = Duration::from_secs(5);

impl Postgres {
    /// Stops the postmaster and all its processes (SIGSTOP) until [`thaw`](Self::thaw): connections stay open, new ones
    /// are still taken by the kernel, and nothing answers. Returns when all have stopped.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`], a failed signal, or [`ServerError::TimedOut`].
    pub async fn freeze(&self) -> Result<(), ServerError> {
        let postmaster = self.running()?;
        self.freeze_all(&[postmaster]).await?;
        // A stopped postmaster makes no more children, so the list is complete.
        self.freeze_all(&process_tree::children(postmaster)).await
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// [`ServerError::NotRunning`] or a failed signal.
    pub async fn thaw(&self) -> Result<(), ServerError> {
        let postmaster = self.running()?;
        for pid in process_tree::children(postmaster).into_iter().chain([postmaster]) {
            process_tree::signal(pid, Signal::CONT).map_err(ServerError::Signal)?;
        }
        Ok(())
    }

    /// Stops one backend (`pg_backend_pid()`); all others go on.
    ///
    /// # Errors
    /// [`ServerError::NotABackend`], a failed signal, or [`ServerError::TimedOut`].
    pub async fn freeze_backend(&self, pid: u32) -> Result<(), ServerError> {
        self.check_backend(pid)?;
        self.freeze_all(&[pid]).await
    }

    /// Lets a frozen backend go on.
    ///
    /// # Errors
    /// [`ServerError::NotABackend`] or a failed signal.
    pub async fn thaw_backend(&self, pid: u32) -> Result<(), ServerError> {
        self.check_backend(pid)?;
        process_tree::signal(pid, Signal::CONT).map_err(ServerError::Signal)
    }

    /// Kills one backend (SIGKILL). The postmaster then drops all sessions and recovers; see
    /// [`wait_ready`](Self::wait_ready). For the end of one session only, use `pg_terminate_backend` on
    /// [`admin`](Self::admin).
    ///
    /// # Errors
    /// [`ServerError::NotABackend`], a failed signal, or [`ServerError::TimedOut`].
    pub async fn kill_backend(&self, pid: u32) -> Result<(), ServerError> {
        self.check_backend(pid)?;
        process_tree::signal(pid, Signal::KILL).map_err(ServerError::Signal)?;
        self.settle(&[pid], Settled::Gone).await
    }

    /// Waits until the server accepts connections, for example after its recovery from a killed backend.
    ///
    /// # Errors
    /// [`ServerError::TimedOut`] when it does not within `within`.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), ServerError> {
        let deadline = Instant::now() + within;
        loop {
            if let Ok(Ok(admin)) = tokio::time::timeout_at(deadline, self.admin()).await {
                return Ok(admin.close().await?);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("becoming ready", within));
            }
            sleep(POLL).await;
        }
    }

    /// `ALTER SYSTEM SET`; takes effect with [`reload`](Self::reload) or a restart. An empty value is `''`.
    ///
    /// # Errors
    /// When the server refuses or can't be reached.
    pub async fn alter_system(&self, name: &str, value: &str) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        let name = name.split('.').map(identifier).collect::<Vec<_>>().join(".");
        execute(&mut admin, format!("ALTER SYSTEM SET {name} = {}", literal(value))).await?;
        Ok(admin.close().await?)
    }

    /// `ALTER SYSTEM RESET`.
    ///
    /// # Errors
    /// When the server refuses or can't be reached.
    pub async fn reset_system(&self, name: &str) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        let name = name.split('.').map(identifier).collect::<Vec<_>>().join(".");
        execute(&mut admin, format!("ALTER SYSTEM RESET {name}")).await?;
        Ok(admin.close().await?)
    }

    /// Reads the configuration anew and waits until sessions see it.
    ///
    /// # Errors
    /// When the server refuses, can't be reached or does not take it up within 5 s.
    pub async fn reload(&self) -> Result<(), ServerError> {
        let mut admin = self.admin().await?;
        let before = loaded(&mut admin).await?;
        sqlx::query("SELECT pg_reload_conf()").execute(&mut admin).await?;
        let deadline = Instant::now() + EFFECT;
        while loaded(&mut admin).await? == before {
            if Instant::now() >= deadline {
                return Err(self.timed_out("reloading the configuration", EFFECT));
            }
            sleep(POLL).await;
        }
        Ok(admin.close().await?)
    }

    fn running(&self) -> Result<u32, ServerError> {
        self.pid().ok_or(ServerError::NotRunning)
    }

    /// Guards against signals to a process that took over the number of a backend long gone.
    fn check_backend(&self, pid: u32) -> Result<(), ServerError> {
        if process_tree::children(self.running()?).contains(&pid) {
            Ok(())
        } else {
            Err(ServerError::NotABackend { pid })
        }
    }

    async fn freeze_all(&self, pids: &[u32]) -> Result<(), ServerError> {
        for &pid in pids {
            process_tree::signal(pid, Signal::STOP).map_err(ServerError::Signal)?;
        }
        self.settle(pids, Settled::Stopped).await
    }

    async fn settle(&self, pids: &[u32], want: Settled) -> Result<(), ServerError> {
        if process_tree::settled(pids, want, EFFECT).await {
            Ok(())
        } else {
            Err(self.timed_out("a signal's effect", EFFECT))
        }
    }

    pub(crate) fn timed_out(&self, what: &'static str, within: Duration) -> ServerError {
        ServerError::TimedOut {
            what,
            within,
            log: self.log_tail(),
        }
    }
}

async fn loaded(admin: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_conf_load_time()::text")
        .fetch_one(admin)
        .await
}
