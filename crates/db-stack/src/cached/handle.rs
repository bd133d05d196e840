//! `db.cache()`: to drop answers, to watch tables, to look at figures.

use crate::Db;
use db_cache::{Cache, CacheStats, Key, UNWATCH_SQL, WATCH_SQL};
use db_core::{Fingerprint, Result, StatementFacts};
use sqlx::raw_sql;
use std::{fmt, time::Duration};

/// The cache of a database.
#[derive(Clone)]
pub struct CacheHandle {
    db: Db,
}

impl Db {
    /// The cache: to drop answers, to watch tables, to look at figures.
    pub fn cache(&self) -> CacheHandle {
        CacheHandle { db: self.clone() }
    }
}

impl CacheHandle {
    fn cache(&self) -> &Cache {
        self.db.cache_engine()
    }

    /// Drops every answer that depends on a table: `name` or `schema.name`, as in SQL. An unknown name drops all.
    pub fn invalidate_table(&self, name: &str) {
        self.cache().invalidate_table(name);
    }

    /// Drops every answer that was asked for under this [tag](crate::Cached::tag).
    pub fn invalidate_tag(&self, tag: &str) {
        self.cache().invalidate_tag(tag);
    }

    /// Drops one answer: see [`Cached::key`](crate::Cached::key).
    pub fn invalidate_key(&self, key: Key) {
        self.cache().invalidate_key(key);
    }

    /// Drops all answers.
    pub fn invalidate_all(&self) {
        self.cache().invalidate_all();
    }

    /// Hits, misses, invalidations by reason, memory; in all and by statement.
    pub fn stats(&self) -> CacheStats {
        self.cache().stats()
    }

    /// Connects to whatever tells of other writers and reads the schema, as the first cached query would. Returns
    /// whether answers are kept from now on.
    pub async fn ready(&self, limit: Duration) -> bool {
        self.cache().ready(limit).await
    }

    /// The time of answers to one statement for [`Db::cached_by_policy`]: to all texts that differ from `sql` in
    /// literals and white space only. `None` takes that of the class again.
    pub fn set_policy(&self, sql: &str, ttl: impl Into<Option<Duration>>) {
        let fingerprint: Fingerprint = StatementFacts::of(sql).fingerprint();
        self.db.inner.cached.set_policy(fingerprint, ttl.into());
    }

    /// Installs what [`watch`](Self::watch) needs: the schema `db_cache`, which is also in the project's migrations. May
    /// be run again.
    ///
    /// # Errors
    /// When the role may not create a schema.
    pub async fn install(&self) -> Result<()> {
        raw_sql(WATCH_SQL).execute(&self.db).await?;
        Ok(())
    }

    /// Takes it away again, with the triggers of all watched tables.
    ///
    /// # Errors
    /// When it is not there, or not ours.
    pub async fn uninstall(&self) -> Result<()> {
        raw_sql(UNWATCH_SQL).execute(&self.db).await?;
        Ok(())
    }

    /// Makes the server tell all processes of every committed write of a table, whoever makes it; partitions and
    /// children included. Writers of watched tables then commit one after the other, since NOTIFY takes a lock.
    ///
    /// # Errors
    /// When the schema `db_cache` is not installed, the table unknown or not ours.
    pub async fn watch(&self, table: &str) -> Result<i32> {
        let watched = sqlx::query_scalar("SELECT db_cache.watch($1::regclass)").bind(table);
        Ok(watched.fetch_one(&self.db).await?)
    }

    /// Ends that.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub async fn unwatch(&self, table: &str) -> Result<()> {
        sqlx::query("SELECT db_cache.unwatch($1::regclass)")
            .bind(table)
            .execute(&self.db)
            .await?;
        Ok(())
    }

    /// The tables that are watched, as far as the schema is known.
    pub fn watched(&self) -> Vec<String> {
        self.cache().watched()
    }
}

impl fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheHandle").field("cache", self.cache()).finish()
    }
}
