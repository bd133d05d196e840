//! A throwaway PgBouncer before a server.

use std::{
    env, fmt,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    account::Account, error::StartError, home::Home, keeper, process::Process, process_tree::POLL, recipe::dress, url,
};

/// How long it may take to accept connections.
const START: Duration = Duration::from_secs(10);
/// Ports tried before giving up.
const PORTS: u32 = 20;
/// Programs beside those of `DB_STACK_PGBOUNCER`, a list like `PATH`: also the one that `.ci/pgbouncer` builds.
const USUAL: [&str; 4] = [
    "/usr/sbin/pgbouncer",
    "/usr/bin/pgbouncer",
    "/usr/local/bin/pgbouncer",
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/pgbouncer/bin/pgbouncer"),
];

/// An installed PgBouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgBouncerProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, for example (1, 24).
    pub version: (u32, u32),
}

/// A PgBouncer of its own in transaction mode before one server, thrown away on drop.
///
/// It lets everybody in as the user that they name, to every database of the server.
pub struct PgBouncer {
    // Before `home`: it must have ended when its folder is removed.
    _process: Process,
    port: u16,
    version: (u32, u32),
    home: Home,
}

/// Made by [`PgBouncer::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PgBouncerBuilder {
    program: PgBouncerProgram,
    server: SocketAddr,
    settings: Vec<(String, String)>,
}

impl PgBouncer {
    /// The programs on this machine, oldest version first, one for each version.
    pub fn programs() -> Vec<PgBouncerProgram> {
        let named = env::var_os("DB_STACK_PGBOUNCER").unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&named)
            .filter(|path| !path.as_os_str().is_empty())
            .chain(env::split_paths(&path).map(|dir| dir.join("pgbouncer")))
            .chain(USUAL.map(PathBuf::from));
        let mut found: Vec<_> = places.filter_map(|path| program(&path)).collect();
        found.sort_by_key(|program| program.version);
        found.dedup_by_key(|program| program.version);
        found
    }

    /// The program at `path`; `None` when it does not say its version.
    pub fn program(path: &Path) -> Option<PgBouncerProgram> {
        program(path)
    }

    /// One before the server at `server`.
    pub fn builder(program: &PgBouncerProgram, server: SocketAddr) -> PgBouncerBuilder {
        PgBouncerBuilder {
            program: program.clone(),
            server,
            settings: Vec::new(),
        }
    }

    /// URL of a database of the server, through the pooler, for the user `postgres`.
    pub fn url_for(&self, database: &str) -> String {
        url::tcp("127.0.0.1", self.port, None, database)
    }

    /// `url` of the server itself, through the pooler.
    pub fn through(&self, url: &str) -> String {
        url::with_address(url, self.addr())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its version, for example (1, 24).
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.home.log_tail()
    }
}

impl PgBouncerBuilder {
    /// A line for the section `[pgbouncer]`; wins over the defaults and over earlier lines of the same name.
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// Starts it. Cancel safe: dropping the future ends and removes what was started.
    ///
    /// # Errors
    /// [`StartError`] when it ends at once or does not accept connections within 10 s.
    pub async fn start(self) -> Result<PgBouncer, StartError> {
        let account = Account::choose()?;
        for _ in 0..PORTS {
            let port = fastrand::u16(15_000..32_000);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            let home = Home::create(account, false)?;
            let config = home.dir().join("pgbouncer.ini");
            fs::write(&config, self.configuration(&home, port)).map_err(StartError::io("write pgbouncer.ini"))?;
            fs::write(home.dir().join("users"), "\"postgres\" \"\"\n").map_err(StartError::io("write the users"))?;
            let mut command = keeper::mortal_command(self.program.path.as_os_str());
            dress(&mut command, account, &home);
            let log = home.log().and_then(|log| Ok((log.try_clone()?, log)));
            let (out, err) = log.map_err(StartError::io("open the log"))?;
            command.arg(&config).stdout(out).stderr(err);
            let mut process = Process::spawn(command)
                .await
                .map_err(StartError::io("start PgBouncer"))?;
            match ready(&mut process, &home, port).await {
                Ok(()) => {
                    return Ok(PgBouncer {
                        _process: process,
                        port,
                        version: self.program.version,
                        home,
                    });
                }
                Err(StartError::Exited { log, .. }) if log.contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
        Err(StartError::NoPort { tries: PORTS })
    }

    fn configuration(&self, home: &Home, port: u16) -> String {
        let users = home.dir().join("users").display().to_string();
        let mut all: Vec<(&str, String)> = vec![
            ("listen_addr", "127.0.0.1".to_owned()),
            ("listen_port", port.to_string()),
            ("unix_socket_dir", String::new()),
            ("auth_type", "trust".to_owned()),
            ("auth_file", users),
            ("admin_users", "postgres".to_owned()),
            ("pool_mode", "transaction".to_owned()),
            ("max_client_conn", "500".to_owned()),
            ("default_pool_size", "20".to_owned()),
        ];
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\n",
            self.server.ip(),
            self.server.port()
        );
        for (name, value) in all {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{name} = {value}");
        }
        text
    }
}

async fn ready(process: &mut Process, home: &Home, port: u16) -> Result<(), StartError> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = process.ended().map_err(StartError::io("wait for PgBouncer"))? {
            return Err(StartError::Exited {
                status: status.to_string(),
                log: home.log_tail(),
            });
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StartError::NotReady {
                within: START,
                log: home.log_tail(),
            });
        }
        sleep(POLL).await;
    }
}

fn program(path: &Path) -> Option<PgBouncerProgram> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(PgBouncerProgram {
        path: path.to_owned(),
        version: version_in(&text)?,
    })
}

/// `PgBouncer 1.18.0` or `PgBouncer version 1.8`.
fn version_in(text: &str) -> Option<(u32, u32)> {
    let number = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

impl fmt::Debug for PgBouncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBouncer")
            .field("version", &self.version)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version_in("PgBouncer 1.18.0\nlibevent 2.1.12-stable"), Some((1, 18)));
        assert_eq!(version_in("PgBouncer version 1.8"), Some((1, 8)));
        assert_eq!(version_in("no such thing"), None);
    }
}
