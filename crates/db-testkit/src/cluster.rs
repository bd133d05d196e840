//! A server seen through its URLs, whoever started it.

use std::{str::FromStr, time::Duration};

use sqlx::{ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::{error::ServerError, url};

/// How long an administration connection may take to open.
const CONNECT: Duration = Duration::from_secs(10);

/// How to reach a server, as its administrator and as its tests.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    admin: String,
    public: String,
}

impl Cluster {
    pub(crate) fn new(admin: String, public: String) -> Self {
        Self { admin, public }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        url::with_database(&self.public, database)
    }

    pub(crate) fn admin_url(&self, database: &str) -> String {
        url::with_database(&self.admin, database)
    }

    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url(database))
            .expect("the URL was built here or has been parsed before")
            .disable_statement_logging()
    }

    pub(crate) async fn admin(&self, database: &str) -> Result<PgConnection, ServerError> {
        let options = PgConnectOptions::from_str(&self.admin_url(database))?.disable_statement_logging();
        match timeout(CONNECT, PgConnection::connect_with(&options)).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(ServerError::TimedOut {
                what: "the administration connection",
                within: CONNECT,
                log: String::new(),
            }),
        }
    }

    /// The server's version, for example `15.18`.
    pub(crate) async fn version(&self) -> Result<String, ServerError> {
        let mut admin = self.admin("postgres").await?;
        let row = sqlx::query("SELECT current_setting('server_version')")
            .fetch_one(&mut admin)
            .await?;
        let version: String = row.try_get(0)?;
        admin.close().await?;
        // Distributions append their own: "15.18 (Debian 15.18-0+deb12u1)".
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }
}

/// A name that no other process uses.
pub(crate) fn unique(kind: &str) -> String {
    format!("{kind}_{:016x}", fastrand::u64(..))
}

/// An identifier in SQL.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal in SQL, for statements that take no parameters.
pub(crate) fn literal(value: &str) -> String {
    let value = value.replace('\'', "''");
    // With a backslash the plain form depends on standard_conforming_strings.
    if value.contains('\\') {
        format!("E'{}'", value.replace('\\', "\\\\"))
    } else {
        format!("'{value}'")
    }
}

/// Runs a statement that was built here.
pub(crate) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
