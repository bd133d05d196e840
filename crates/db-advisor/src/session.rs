//! The connection that looks: read-only by construction, bounded, and never in anybody's way.

use crate::AdvisorError;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use std::{str::FromStr, time::Duration};

/// How long one question may take. Own choice: a catalog query takes milliseconds.
const STATEMENT: Duration = Duration::from_secs(5);
/// How long a question waits for a lock. Only ACCESS SHARE is asked for, so only DDL can be in the way.
const LOCK: Duration = Duration::from_millis(200);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A session in which every transaction is read-only, every statement and every wait for a lock has a limit, and no
/// worker is started for it.
#[derive(Debug)]
pub struct Looking {
    pub(crate) pg: PgConnection,
    /// The server's version as a number, for example 150018.
    pub(crate) version: u32,
    /// Statements prepared to be explained, so far.
    pub(crate) plans: u64,
}

impl Looking {
    /// Connects. Through a transaction pooler this is refused: its sessions are others' a moment later.
    ///
    /// # Errors
    /// [`AdvisorError::Connect`], without the password.
    pub async fn connect(url: &str) -> Result<Self, AdvisorError> {
        let options = PgConnectOptions::from_str(url).map_err(AdvisorError::Url)?;
        Self::connect_with(options).await
    }

    /// As [`Looking::connect`], with sqlx's own options.
    ///
    /// # Errors
    /// As [`Looking::connect`].
    pub async fn connect_with(options: PgConnectOptions) -> Result<Self, AdvisorError> {
        let ms = |limit: Duration| format!("{}ms", limit.as_millis());
        let options = options
            .application_name("db-stack-advisor")
            .options([
                ("default_transaction_read_only", "on".to_owned()),
                ("statement_timeout", ms(STATEMENT)),
                ("lock_timeout", ms(LOCK)),
                ("idle_in_transaction_session_timeout", "30s".to_owned()),
                ("max_parallel_workers_per_gather", "0".to_owned()),
                // Whatever is called, it is the catalog's.
                ("search_path", "pg_catalog".to_owned()),
            ])
            .disable_statement_logging();
        let connecting = tokio::time::timeout(CONNECT, options.connect()).await;
        let mut pg = connecting
            .map_err(|_| AdvisorError::Connect(sqlx::Error::PoolTimedOut))?
            .map_err(AdvisorError::Connect)?;
        let version = pg.server_version_num().unwrap_or(0);
        // A pooler that ignores settings would let a write through: nothing is asked without the guard.
        let guarded: bool = sqlx::query_scalar("SELECT current_setting('default_transaction_read_only')::bool")
            .persistent(false)
            .fetch_one(&mut pg)
            .await?;
        if !guarded {
            return Err(AdvisorError::Pooled);
        }
        Ok(Self { pg, version, plans: 0 })
    }

    /// Begins the read-only transaction in which several questions see one state.
    pub(crate) async fn begin(&mut self) -> Result<(), AdvisorError> {
        self.pg
            .execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        Ok(())
    }

    /// Ends it; nothing was written that could be kept.
    pub(crate) async fn end(&mut self) -> Result<(), AdvisorError> {
        self.pg.execute("ROLLBACK").await?;
        Ok(())
    }

    /// Says goodbye.
    pub async fn close(self) {
        // The server notices by itself where this fails.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.pg.close()).await;
    }
}
