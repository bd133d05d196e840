//! A database that others are copied from.

use std::error::Error;

use sqlx::{Connection, PgConnection};

use crate::{
    cluster::{Cluster, execute, identifier, literal, unique},
    database::{self, Database},
    error::ServerError,
};

/// A seeded database; its copies are made in milliseconds, whatever the seeding took.
#[derive(Debug, Clone)]
pub struct Template {
    cluster: Cluster,
    name: String,
}

impl Template {
    pub(crate) async fn prepare<S, F, E>(cluster: &Cluster, seed: S) -> Result<Self, ServerError>
    where
        S: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut admin = cluster.admin("postgres").await?;
        let name = unique("template");
        grow(cluster, &mut admin, &name, seed).await?;
        admin.close().await?;
        Ok(Self {
            cluster: cluster.clone(),
            name,
        })
    }

    /// Prepares it under a known name, unless another process has done so already; processes wait for each other.
    pub(crate) async fn prepare_once<S, F, E>(cluster: &Cluster, name: &str, seed: S) -> Result<Self, ServerError>
    where
        S: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let name = format!("template_{name}");
        let mut admin = cluster.admin("postgres").await?;
        // Held by the session: gives way by itself when the process that seeds dies.
        sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))")
            .bind(&name)
            .execute(&mut admin)
            .await?;
        let done: Option<bool> = sqlx::query_scalar("SELECT datistemplate FROM pg_database WHERE datname = $1")
            .bind(&name)
            .fetch_optional(&mut admin)
            .await?;
        if done != Some(true) {
            // Half-seeded by a process that died.
            execute(
                &mut admin,
                format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", identifier(&name)),
            )
            .await?;
            grow(cluster, &mut admin, &name, seed).await?;
        }
        admin.close().await?;
        Ok(Self {
            cluster: cluster.clone(),
            name,
        })
    }

    /// A copy with a unique name.
    ///
    /// # Errors
    /// When the server refuses or can't be reached.
    pub async fn database(&self) -> Result<Database, ServerError> {
        Database::create(&self.cluster, &self.name).await
    }

    /// The template's own name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }
}

async fn grow<S, F, E>(cluster: &Cluster, admin: &mut PgConnection, name: &str, seed: S) -> Result<(), ServerError>
where
    S: FnOnce(String) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    database::copy(admin, name, "template0").await?;
    seed(cluster.url(name))
        .await
        .map_err(|error| ServerError::Seed(error.into()))?;
    // A copy fails while anybody is in the template; marking it last also says that seeding has succeeded.
    let quoted = identifier(name);
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname =";
    for statement in [
        format!("ALTER DATABASE {quoted} ALLOW_CONNECTIONS false"),
        format!("{end} {}", literal(name)),
        format!("ALTER DATABASE {quoted} IS_TEMPLATE true"),
    ] {
        execute(admin, statement).await?;
    }
    Ok(())
}
