//! What can go wrong with a throwaway server.

use std::{error::Error, io, path::PathBuf, time::Duration};

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No folder holds both `postgres` and `initdb`.
    #[error(
        "no PostgreSQL server binaries (`postgres` and `initdb`) found; looked at:\n  {}\n\
         install the package `postgresql` (Debian, Ubuntu), `postgresql-server` (Fedora) or \
         `brew install postgresql`, or set DB_STACK_PG_BIN to the folder that holds them{}",
        looked.join("\n  "),
        if cfg!(feature = "fetch") { "" } else { ", or build with the cargo feature `fetch`" }
    )]
    NoBinaries {
        /// Every place that was looked at, with what was wrong there.
        looked: Vec<String>,
    },
    /// The binaries are there but this one of them is not.
    #[error("{tool} is not in {}: install the full PostgreSQL server and client package", bin_dir.display())]
    MissingTool {
        /// The missing program.
        tool: &'static str,
        /// Where it should have been.
        bin_dir: PathBuf,
    },
    /// Running as root, and there is neither a `postgres` nor a `nobody` account to run the server as.
    #[error("PostgreSQL refuses to run as root, and /etc/passwd has neither `postgres` nor `nobody`")]
    NoAccount,
    /// A file system or process operation failed.
    #[error("could not {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `initdb` or `pg_basebackup` ended with an error.
    #[error("{tool} failed ({status}):\n{output}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// Its exit status, or that it took too long.
        status: String,
        /// The last lines of its output.
        output: String,
    },
    /// The server ended while starting.
    #[error("the server ended while starting ({status}); its log ends with:\n{log}")]
    Exited {
        /// The exit status.
        status: String,
        /// The last lines of the server log.
        log: String,
    },
    /// The server did not accept connections in time; it was killed.
    #[error("the server was not ready within {within:?}; its log ends with:\n{log}")]
    NotReady {
        /// How long it was given.
        within: Duration,
        /// The last lines of the server log.
        log: String,
    },
    /// Every port that was tried had been taken in the meantime.
    #[error("no free TCP port for the server after {tries} tries")]
    NoPort {
        /// How many ports were tried.
        tries: u32,
    },
    /// PostgreSQL is not installed and could not be fetched.
    #[error("PostgreSQL could not be fetched: {why}; it is also not installed:\n  {}", looked.join("\n  "))]
    Fetch {
        /// Why it could not.
        why: String,
        /// Every place that was looked at before.
        looked: Vec<String>,
    },
}

impl StartError {
    /// Adapter for `map_err`: an I/O error with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why an operation on a started server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server could not be started (again).
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server is not running.
    #[error("the server is not running")]
    NotRunning,
    /// The server is running already.
    #[error("the server is running already")]
    AlreadyRunning,
    /// The process is no child of this server's postmaster.
    #[error("process {pid} is no backend of this server")]
    NotABackend {
        /// The process id that was given.
        pid: u32,
    },
    /// Something did not happen in time.
    #[error("{what} took longer than {within:?}; the server log ends with:\n{log}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long it was given.
        within: Duration,
        /// The last lines of the server log, empty for a server of someone else.
        log: String,
    },
    /// A signal could not be sent.
    #[error("could not signal the server")]
    Signal(#[source] io::Error),
    /// A statement on an administration connection failed.
    #[error("an administration statement failed")]
    Sql(#[from] sqlx::Error),
    /// The caller's seeding of a template failed.
    #[error("seeding the template failed")]
    Seed(#[source] Box<dyn Error + Send + Sync>),
}
