//! A database of its own for one test.

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    cluster::{Cluster, execute, identifier, unique},
    error::ServerError,
};

/// A database with a unique name on a server that outlives it.
///
/// Dropping the value leaves the database alone: it goes with its server. Use
/// [`drop_database`](Self::drop_database) to have it gone earlier.
#[derive(Debug, Clone)]
pub struct Database {
    cluster: Cluster,
    name: String,
}

impl Database {
    pub(crate) async fn create(cluster: &Cluster, template: &str) -> Result<Self, ServerError> {
        let mut admin = cluster.admin("postgres").await?;
        let name = unique("test");
        copy(&mut admin, &name, template).await?;
        admin.close().await?;
        Ok(Self {
            cluster: cluster.clone(),
            name,
        })
    }

    /// Its URL, over TCP where the server listens there.
    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// What [`url`](Self::url) says, with sqlx's statement logging off.
    pub fn options(&self) -> PgConnectOptions {
        self.cluster.options(&self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops the database and ends the sessions that are still in it.
    ///
    /// # Errors
    /// When the server refuses or can't be reached.
    pub async fn drop_database(self) -> Result<(), ServerError> {
        drop_named(&self.cluster, &self.name).await
    }
}

/// Ends the sessions of a database and drops it, if it is there.
pub(crate) async fn drop_named(cluster: &Cluster, name: &str) -> Result<(), ServerError> {
    let mut admin = cluster.admin("postgres").await?;
    execute(
        &mut admin,
        format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", identifier(name)),
    )
    .await?;
    admin.close().await?;
    Ok(())
}

/// Makes a database by copying another that nobody is in.
pub(crate) async fn copy(admin: &mut PgConnection, name: &str, template: &str) -> Result<(), sqlx::Error> {
    // Copying files needs a checkpoint, which is cheap only where nothing is synced; logging pages needs none.
    let files: bool = sqlx::query_scalar(
        "SELECT current_setting('fsync') = 'off' AND current_setting('server_version_num')::int >= 150000",
    )
    .fetch_one(&mut *admin)
    .await?;
    let strategy = if files { " STRATEGY file_copy" } else { "" };
    let sql = format!(
        "CREATE DATABASE {} TEMPLATE {}{strategy}",
        identifier(name),
        identifier(template)
    );
    execute(admin, sql).await
}
