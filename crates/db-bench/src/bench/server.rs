//! The server under test and how each client reaches it.

use super::scenario;
use anyhow::{Context, Result};
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, postgres::PgConnectOptions, raw_sql};
use std::{process, str::FromStr};
use tokio_postgres::config::Host;

/// A seeded server: one of our own, or a schema of our own on another.
#[derive(Debug)]
pub(crate) struct Target {
    url: String,
    /// On somebody else's server everything is in here, and goes with it.
    schema: Option<String>,
    /// Ends the throwaway server when the target goes.
    server: Option<Postgres>,
}

impl Target {
    /// A throwaway server, or the one at `url`.
    pub(crate) async fn start(url: Option<&str>) -> Result<Self> {
        let target = match url {
            Some(url) => Self {
                url: url.to_owned(),
                schema: Some(format!("db_bench_{}", process::id())),
                server: None,
            },
            None => {
                let server = Postgres::builder()
                    // What would start by itself in one subject's turn and not in another's.
                    .setting("autovacuum", "off")
                    .setting("max_wal_size", "4GB")
                    .setting("checkpoint_timeout", "1h")
                    .start()
                    .await
                    .context("no server to measure on (give one with --url)")?;
                Self {
                    url: server.url(),
                    schema: None,
                    server: Some(server),
                }
            }
        };
        if let Some(schema) = &target.schema {
            target.execute(vec![format!("CREATE SCHEMA {schema}")]).await?;
        }
        if let Err(error) = target.execute(scenario::seed()).await {
            target.clean_up().await;
            return Err(error.context("seeding the tables"));
        }
        Ok(target)
    }

    /// Options for sqlx, and for `Db`.
    pub(crate) fn sqlx_options(&self) -> Result<PgConnectOptions> {
        let options = PgConnectOptions::from_str(&self.url)?;
        Ok(match &self.schema {
            Some(schema) => options.options([("search_path", schema)]),
            None => options,
        })
    }

    /// Options for deadpool-postgres.
    pub(crate) fn tokio_options(&self) -> Result<tokio_postgres::Config> {
        let mut options = tokio_postgres::Config::from_str(&self.url).context("deadpool-postgres can't use the URL")?;
        if let Some(schema) = &self.schema {
            options.options(format!("-c search_path={schema}"));
        }
        Ok(options)
    }

    /// Options for programs of PostgreSQL's own; in the environment, where other users do not see a password.
    pub(crate) fn libpq_environment(&self) -> Vec<(&'static str, String)> {
        let Ok(options) = self.tokio_options() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        if let Some(host) = options.get_hosts().first() {
            all.push((
                "PGHOST",
                match host {
                    Host::Tcp(name) => name.clone(),
                    Host::Unix(path) => path.display().to_string(),
                },
            ));
        }
        all.extend(options.get_ports().first().map(|port| ("PGPORT", port.to_string())));
        all.extend(options.get_user().map(|user| ("PGUSER", user.to_owned())));
        all.extend(options.get_dbname().map(|name| ("PGDATABASE", name.to_owned())));
        all.extend(options.get_options().map(|options| ("PGOPTIONS", options.to_owned())));
        let password = options.get_password().map(String::from_utf8_lossy);
        all.extend(password.map(|password| ("PGPASSWORD", password.into_owned())));
        all
    }

    /// The URL as it was given, for a child of our own.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements one by one on a connection of its own.
    pub(crate) async fn execute(&self, statements: Vec<String>) -> Result<()> {
        let mut conn = self.sqlx_options()?.connect().await?;
        for statement in statements {
            // Every text is ours: none holds anything from outside.
            raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
        }
        Ok(conn.close().await?)
    }

    /// Empties the tables that grew.
    pub(crate) async fn empty(&self) -> Result<()> {
        self.execute(vec![scenario::EMPTY.to_owned()]).await
    }

    /// Removes what was made on somebody else's server; a throwaway one goes as a whole.
    pub(crate) async fn clean_up(self) {
        if let Some(schema) = &self.schema
            && let Err(error) = self.execute(vec![format!("DROP SCHEMA {schema} CASCADE")]).await
        {
            eprintln!("schema {schema} is left behind: {error:#}");
        }
        drop(self.server);
    }

    /// The server's version.
    pub(crate) async fn version(&self) -> Result<String> {
        let mut conn = self.sqlx_options()?.connect().await?;
        let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut conn).await?;
        conn.close().await?;
        Ok(version)
    }
}
