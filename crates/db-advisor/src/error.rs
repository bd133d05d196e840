//! What can go wrong while looking.

/// Why there is no advice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdvisorError {
    /// The URL can't be read. It is not shown: it may hold a password.
    #[error("the URL can't be used; expected postgres://user@host:port/database")]
    Url(#[source] sqlx::Error),
    /// No connection.
    #[error("can't connect: {0}")]
    Connect(#[source] sqlx::Error),
    /// A pooler stands before the server and did not pass the read-only setting on.
    #[error(
        "a connection pooler stands before the server and drops the settings that make looking safe: give the \
         address of the server itself"
    )]
    Pooled,
    /// The statement will not be explained, and nothing of it was run.
    #[error(transparent)]
    Refused(#[from] crate::Refusal),
    /// The server said no.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    File {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{what} does not hold a snapshot of this version: {source}")]
    Snapshot {
        /// The path.
        what: String,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The client's figures are not what `Db::statements()` writes as JSON.
    #[error("the client's figures can't be read: {0}")]
    Client(#[source] serde_json::Error),
    /// A migration was changed after it had been installed.
    #[error("migration {0} differs from the one that was installed: restore its file, or take it down and up again")]
    Changed(String),
    /// A name that can't be used.
    #[error("{what} {name:?} can't be used: {allowed}")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
        /// What would do.
        allowed: &'static str,
    },
}
