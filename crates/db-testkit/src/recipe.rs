//! How a server is to be set up.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::{fs::OpenOptionsExt, process::CommandExt as _},
    path::Path,
    process::{self, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{account::Account, binaries::Binaries, error::StartError, home::Home};

/// How long `initdb` or `pg_basebackup` may take.
const TOOL: Duration = Duration::from_secs(60);

/// Settings and authentication.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) preload: Vec<String>,
    pub(crate) max_connections: u16,
    pub(crate) listen_tcp: bool,
    pub(crate) durable: bool,
    pub(crate) password: Option<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            preload: Vec::new(),
            max_connections: 200,
            listen_tcp: true,
            durable: false,
            password: None,
        }
    }
}

impl Recipe {
    /// What is appended to `postgresql.conf`; the last value of a name wins.
    fn configuration(&self) -> String {
        let on = |yes: bool| if yes { "on" } else { "off" }.to_owned();
        let mut all: Vec<(&str, String)> = vec![
            (
                "listen_addresses",
                if self.listen_tcp { "127.0.0.1" } else { "" }.to_owned(),
            ),
            ("max_connections", self.max_connections.to_string()),
            ("fsync", on(self.durable)),
            ("full_page_writes", on(self.durable)),
            // Zeros for a new WAL file only make a crash of the machine safer.
            ("wal_init_zero", on(self.durable)),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", "10".to_owned()),
            ("hot_standby", "on".to_owned()),
            // A standby that lost its primary looks for it again, and for a promotion, only so often (5 s by default).
            ("wal_retrieve_retry_interval", "100ms".to_owned()),
            // A slot whose replica was thrown away must not fill the disk.
            ("max_slot_wal_keep_size", "1GB".to_owned()),
            // Files in the data directory go with it; POSIX segments would outlive a killed server.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
        ];
        if !self.preload.is_empty() {
            all.push(("shared_preload_libraries", self.preload.join(",")));
        }
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut text = "\n# Appended for this throwaway server.\n".to_owned();
        for (name, value) in all {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{name} = {}", quoted(&value));
        }
        text
    }

    /// Makes the data directory.
    pub(crate) async fn cook(&self, binaries: &Binaries, account: Account, home: &Home) -> Result<(), StartError> {
        let data = home.data();
        let mut initdb = tool(&binaries.tool("initdb")?, account, home);
        initdb
            .args([
                "--no-sync",
                "--no-instructions",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data);
        let secret = home.dir().join("secret");
        if let Some(password) = &self.password {
            let written = write_secret(&secret, password).and_then(|()| account.own(&secret));
            written.map_err(StartError::io("write the password file"))?;
            initdb
                .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
                .arg("--pwfile")
                .arg(&secret);
        } else {
            initdb.args(["-A", "trust"]);
        }
        run("initdb", initdb).await?;
        if self.password.is_some() {
            fs::remove_file(&secret).map_err(StartError::io("remove the password file"))?;
        }
        fs::File::options()
            .append(true)
            .open(data.join("postgresql.conf"))
            .and_then(|mut file| file.write_all(self.configuration().as_bytes()))
            .map_err(StartError::io("write postgresql.conf"))
    }
}

fn write_secret(path: &Path, password: &str) -> io::Result<()> {
    let mut file = fs::File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(password.as_bytes())
}

/// A value as `postgresql.conf` wants it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A PostgreSQL program, run as `account` in `home` and free of the caller's `PG*` variables.
pub(crate) fn tool(program: &Path, account: Account, home: &Home) -> Command {
    let mut command = process::Command::new(program);
    dress(&mut command, account, home);
    command.into()
}

/// Account, working directory and environment of a PostgreSQL program.
pub(crate) fn dress(command: &mut process::Command, account: Account, home: &Home) {
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_"))
        {
            command.env_remove(name);
        }
    }
    command
        .current_dir(home.dir())
        .env("HOME", home.dir())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        // A Ctrl-C on the terminal is for the caller: the server stays until it is told to stop.
        .process_group(0);
    if let Account::Other { uid, gid } = account {
        // As root this drops the supplementary groups, too.
        command.gid(gid).uid(uid);
    }
}

/// Runs a program to its end. Cancel safe: it is killed when the future is dropped.
pub(crate) async fn run(name: &'static str, mut command: Command) -> Result<(), StartError> {
    let output = timeout(TOOL, command.kill_on_drop(true).output());
    let failed = |status: String, output: String| StartError::Tool {
        tool: name,
        status,
        output,
    };
    match output.await {
        Err(_) => Err(failed(format!("not done within {TOOL:?}"), String::new())),
        Ok(Err(error)) => Err(StartError::io(format!("run {name}"))(error)),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            let skip = text.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            Err(failed(output.status.to_string(), text[skip..].to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_values_are_quoted() {
        let recipe = Recipe {
            settings: vec![
                ("fsync".into(), "on".into()),
                ("cluster_name".into(), r"it's \ here".into()),
            ],
            ..Recipe::default()
        };
        let text = recipe.configuration();
        assert!(text.find("fsync = 'off'").unwrap() < text.find("fsync = 'on'").unwrap());
        assert!(text.contains(r"cluster_name = 'it''s \\ here'"), "{text}");
    }
}
