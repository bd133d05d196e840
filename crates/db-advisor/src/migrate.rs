//! Installs and removes the stack's own tables, views, functions and triggers, in a schema of their own.

use crate::AdvisorError;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection,
    migrate::{MigrationType, Migrator},
};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Two of these at once would install everything twice.
const LOCK: i64 = 0x6462_7374_6163_6b00;

/// One migration and whether it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether it was installed (or taken down) by this call.
    pub done: bool,
}

/// Installs what is missing into `schema`, which is made if need be. Each step is one transaction.
///
/// # Errors
/// The server's; [`AdvisorError::Changed`] when an installed step is not the one of this version. Steps before the failed
/// one stay installed. Dropping the future leaves whole steps.
pub async fn up(pg: &mut PgConnection, schema: &str) -> Result<Vec<Step>, AdvisorError> {
    let quoted = checked(schema)?;
    let mut steps = Vec::new();
    for migration in MIGRATIONS
        .iter()
        .filter(|m| m.migration_type != MigrationType::ReversibleDown)
    {
        let mut tx = pg.begin().await?;
        enter(&mut tx, &quoted).await?;
        let known: Option<Vec<u8>> = sqlx::query_scalar("SELECT checksum FROM migrations WHERE version = $1")
            .bind(migration.version)
            .persistent(false)
            .fetch_optional(&mut *tx)
            .await?;
        let done = match known {
            Some(checksum) if *checksum == *migration.checksum => false,
            Some(_) => {
                return Err(AdvisorError::Changed(format!(
                    "{:04}_{}",
                    migration.version, migration.description
                )));
            }
            None => {
                tx.execute(sqlx::raw_sql(migration.sql.clone())).await?;
                sqlx::query("INSERT INTO migrations (version, name, checksum) VALUES ($1, $2, $3)")
                    .bind(migration.version)
                    .bind(&*migration.description)
                    .bind(&*migration.checksum)
                    .persistent(false)
                    .execute(&mut *tx)
                    .await?;
                true
            }
        };
        tx.commit().await?;
        steps.push(step(migration.version, &migration.description, done));
    }
    Ok(steps)
}

/// Takes down every installed step above `target`, the latest first; 0 takes down all and drops the schema.
///
/// # Errors
/// As [`up`].
pub async fn down(pg: &mut PgConnection, schema: &str, target: i64) -> Result<Vec<Step>, AdvisorError> {
    let quoted = checked(schema)?;
    let mut steps = Vec::new();
    let downs = MIGRATIONS
        .iter()
        .filter(|m| m.migration_type == MigrationType::ReversibleDown);
    for migration in downs.collect::<Vec<_>>().into_iter().rev() {
        if migration.version <= target {
            continue;
        }
        let mut tx = pg.begin().await?;
        enter(&mut tx, &quoted).await?;
        let gone = sqlx::query("DELETE FROM migrations WHERE version = $1")
            .bind(migration.version)
            .persistent(false)
            .execute(&mut *tx)
            .await?;
        let done = gone.rows_affected() > 0;
        if done {
            tx.execute(sqlx::raw_sql(migration.sql.clone())).await?;
        }
        tx.commit().await?;
        steps.push(step(migration.version, &migration.description, done));
    }
    if target == 0 {
        let mut tx = pg.begin().await?;
        enter(&mut tx, &quoted).await?;
        // Without CASCADE: what somebody else has put there stays, and so does the schema.
        tx.execute(sqlx::raw_sql(AssertSqlSafe(format!(
            "DROP TABLE migrations; DROP SCHEMA {quoted}"
        ))))
        .await?;
        tx.commit().await?;
    }
    Ok(steps)
}

fn step(version: i64, name: &str, done: bool) -> Step {
    Step {
        version,
        name: name.to_owned(),
        done,
    }
}

/// Inside the transaction: the schema, alone in the search path, and nobody else at it.
async fn enter(pg: &mut PgConnection, quoted: &str) -> Result<(), AdvisorError> {
    let sql = format!(
        "SET LOCAL client_min_messages TO warning; SELECT pg_advisory_xact_lock({LOCK}); \
         CREATE SCHEMA IF NOT EXISTS {quoted}; SET LOCAL search_path TO {quoted}; \
         CREATE TABLE IF NOT EXISTS migrations (version bigint PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL, \
         installed_at timestamptz NOT NULL DEFAULT now())"
    );
    pg.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

fn checked(schema: &str) -> Result<String, AdvisorError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let ok = (1..=63).contains(&schema.len())
        && schema.chars().all(plain)
        && !schema.starts_with(|c: char| c.is_ascii_digit())
        && !schema.starts_with("pg_");
    // `public` belongs to the application: dropping it at the end would take more than came.
    if ok && schema != "public" {
        Ok(format!("\"{schema}\""))
    } else {
        Err(AdvisorError::Name {
            what: "schema",
            name: schema.to_owned(),
            allowed: "a schema of its own, [a-z_][a-z0-9_]*, not public and not pg_…",
        })
    }
}
