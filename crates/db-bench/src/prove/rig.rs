//! Servers and pools as the proofs need them.

use std::time::Duration;

use anyhow::Context;
use db_stack::Db;
use db_testkit::Postgres;
use sqlx::{PgPool, postgres::PgPoolOptions};

/// The name under which a proof's sessions are found on the server.
pub(crate) const APPLICATION: &str = "db-stack-proof";

/// The same limits for both pools.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max: u32,
    pub(crate) acquire: Duration,
}

/// A server with room for what a pool without bounds may do to it.
pub(crate) async fn server() -> anyhow::Result<Postgres> {
    let server = Postgres::builder().max_connections(400).start();
    server.await.context("no throwaway PostgreSQL")
}

pub(crate) async fn db(url: &str, limits: Limits) -> anyhow::Result<Db> {
    let db = Db::builder().url(url).max_connections(limits.max).configure(|config| {
        config.pool.acquire_timeout = limits.acquire;
        config.pool.drain_timeout = Duration::from_secs(3);
        config.session.application_name = APPLICATION.to_owned();
    });
    db.connect().await.context("Db does not connect")
}

pub(crate) async fn pool(url: &str, limits: Limits) -> anyhow::Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(limits.max)
        .acquire_timeout(limits.acquire)
        .connect(url);
    pool.await.context("PgPool does not connect")
}
