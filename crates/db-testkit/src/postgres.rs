//! The throwaway server.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use crate::{
    account::Account,
    binaries::Binaries,
    builder::PostgresBuilder,
    cluster::Cluster,
    database::Database,
    error::{ServerError, StartError},
    home::Home,
    process::Process,
    recipe::Recipe,
    template::Template,
};

/// A real PostgreSQL server of its own, thrown away on drop.
///
/// All methods take `&self`, so one server can be shared between tasks; starting and stopping wait for each other.
/// Dropping it ends the server (immediate shutdown, a kill if that takes more than 2 s) and removes its folder; that
/// blocks the thread for some ten milliseconds. A killed test process takes the server down with it on Linux; what it
/// leaves on disk is removed by a later start.
pub struct Postgres {
    // Before `home`: the server must have ended when its folder is removed.
    pub(crate) process: Mutex<Option<Process>>,
    /// The postmaster, 0 while it is down.
    pub(crate) postmaster: AtomicU32,
    pub(crate) recipe: Recipe,
    pub(crate) account: Account,
    pub(crate) binaries: Binaries,
    pub(crate) port: u16,
    pub(crate) cluster: Cluster,
    pub(crate) version: String,
    pub(crate) home: Home,
}

impl Postgres {
    /// Starts a server with the defaults for tests: no fsync, 200 connections, ready for replicas.
    ///
    /// Takes about half a second. Cancel safe: dropping the future ends and removes what was started.
    ///
    /// # Errors
    /// [`StartError`] when there are no server binaries or the server does not come up within 30 s.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// A server with settings of your own.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// URL of the database `postgres` for the superuser `postgres`, over TCP (over the socket if TCP is off).
    pub fn url(&self) -> String {
        self.cluster.url("postgres")
    }

    /// Like [`url`](Self::url), for another database, which need not exist yet.
    pub fn url_for(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    /// URL of the database `postgres` over the Unix socket; never asks for a password.
    pub fn socket_url(&self) -> String {
        self.cluster.admin_url("postgres")
    }

    /// What [`url`](Self::url) says, with sqlx's statement logging off.
    pub fn options(&self) -> PgConnectOptions {
        self.cluster.options("postgres")
    }

    /// Address of the TCP listener.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// TCP port; also part of the socket's name when TCP is off. Stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the postmaster, `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        Some(self.postmaster.load(Ordering::Acquire)).filter(|&pid| pid != 0)
    }

    /// The server's version, for example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, for example 15.
    pub fn major_version(&self) -> u32 {
        self.version
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }

    /// The server's folder: data directory `data`, Unix socket and `log`.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// The last 4 KiB of the server log.
    pub fn log_tail(&self) -> String {
        self.home.log_tail()
    }

    /// A new superuser connection over the Unix socket; it works when TCP wants a password or is off.
    ///
    /// # Errors
    /// When the server does not answer within 10 s or refuses.
    pub async fn admin(&self) -> Result<PgConnection, ServerError> {
        self.cluster.admin("postgres").await
    }

    /// A new empty database with a unique name, in some milliseconds.
    ///
    /// # Errors
    /// When the server refuses or can't be reached.
    pub async fn database(&self) -> Result<Database, ServerError> {
        Database::create(&self.cluster, "template0").await
    }

    /// Prepares a template once: `seed` gets the URL of an empty database, and
    /// [`Template::database`] then makes copies of it in milliseconds. Connections that `seed` left open are ended.
    ///
    /// # Errors
    /// [`ServerError::Seed`] with the error of `seed`, or when the server refuses.
    pub async fn template<S, F, E>(&self, seed: S) -> Result<Template, ServerError>
    where
        S: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Template::prepare(&self.cluster, seed).await
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("version", &self.version)
            .field("port", &self.port)
            .field("pid", &self.pid())
            .field("dir", &self.home.dir())
            .finish_non_exhaustive()
    }
}
