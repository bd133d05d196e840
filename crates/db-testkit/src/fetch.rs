//! PostgreSQL from its release host, for machines that have none.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use postgresql_embedded::{PostgreSQL, SettingsBuilder};
use tokio::time::timeout;

use crate::{binaries::Binaries, error::StartError};

/// How long fetching and unpacking may take.
const FETCH: Duration = Duration::from_secs(300);

/// Fetches PostgreSQL unless an earlier call has; `looked` are the places where there was none.
pub(crate) async fn fetch(looked: Vec<String>) -> Result<Binaries, StartError> {
    let cache = cache();
    let marker = prepare(&cache).map_err(StartError::io(format!("prepare {}", cache.display())))?;
    let settings = SettingsBuilder::new()
        .installation_dir(&cache)
        .data_dir(marker)
        .temporary(false)
        .build();
    let mut postgresql = PostgreSQL::new(settings);
    let why = match timeout(FETCH, postgresql.setup()).await {
        Ok(Ok(())) => return Binaries::find(Some(&postgresql.settings().binary_dir())),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not done within {FETCH:?}"),
    };
    Err(StartError::Fetch { why, looked })
}

/// A folder that the server's user can enter and nobody else can fill.
fn cache() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from);
    match home {
        Some(home) if !rustix::process::geteuid().is_root() => home.join(".cache/db-stack-postgresql"),
        _ => PathBuf::from("/var/cache/db-stack-postgresql"),
    }
}

/// A data directory that looks made already, so that the fetching crate does not make one: it can't do so as root.
fn prepare(cache: &Path) -> io::Result<PathBuf> {
    let marker = cache.join("no-data");
    fs::create_dir_all(&marker)?;
    fs::File::create(marker.join("postgresql.conf"))?;
    Ok(marker)
}
