//! A throwaway server: until a signal comes, or for as long as a command runs.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context;
use db_testkit::{PgBouncer, Postgres};
use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

/// Names the server for the command, and for every test below it.
const URL: &str = "DB_STACK_PG_URL";
/// Names the PgBouncer before it, likewise.
const POOLER: &str = "DB_STACK_PG_POOLER";
/// Enough for a whole test suite side by side.
const CONNECTIONS: u16 = 400;

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A line for postgresql.conf; can be given several times.
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Puts this PgBouncer before it, in transaction mode, and sets DB_STACK_PG_POOLER to its address.
    #[arg(long, value_name = "PROGRAM", requires = "exec")]
    pgbouncer: Option<PathBuf>,
    /// Runs the command after `--` with DB_STACK_PG_URL set, then stops the server and exits with the command's code.
    #[arg(long, requires = "command")]
    exec: bool,
    /// The command and its arguments.
    #[arg(last = true, requires = "exec", value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::watch()?;
    let mut builder = Postgres::builder().max_connections(CONNECTIONS);
    for (name, value) in args.settings {
        builder = builder.setting(name, value);
    }
    let server = match signals.or_done(builder.start()).await {
        Ok(started) => started?,
        Err(signal) => return Ok(code_after(signal)),
    };
    let pooler = match &args.pgbouncer {
        Some(path) => Some(before(&server, path).await?),
        None => None,
    };
    // Dropping the server ends it and removes its folder, whichever way this function is left.
    match args.command.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).env(URL, server.url());
            if let Some(pooler) = &pooler {
                command.env(POOLER, pooler.addr().to_string());
            }
            let mut child = command
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))?;
            Ok(code(attend(&mut child, &mut signals).await?))
        }
        None => {
            // A reader that has gone is no reason to leave: the caller ends us by a signal.
            let _ = writeln!(io::stdout(), "{}", server.url());
            signals.next().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A transaction pooler before the server, with room for a whole test suite: each test has a database of its own.
async fn before(server: &Postgres, path: &std::path::Path) -> anyhow::Result<PgBouncer> {
    let program = PgBouncer::program(path).with_context(|| format!("{} is no PgBouncer", path.display()))?;
    let mut pooler = PgBouncer::builder(&program, server.addr())
        .setting("max_client_conn", 2000)
        .setting("default_pool_size", 20)
        // The databases of tests that are over must not keep the server's connections.
        .setting("server_idle_timeout", 5);
    if program.version >= (1, 21) {
        pooler = pooler.setting("max_prepared_statements", 200);
    }
    Ok(pooler.start().await?)
}

/// Waits for the command. A terminal's Ctrl-C reaches it by itself, so SIGINT only tells us not to leave before it has;
/// the others may have been sent to us alone and are passed on.
async fn attend(child: &mut Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            kind = signals.next() => {
                let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                let signal = rustix::process::Signal::from_named_raw(kind.as_raw_value());
                if let (true, Some(pid), Some(signal)) = (kind != SignalKind::interrupt(), pid, signal) {
                    // It may just have ended, which is what the signal asks for.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

/// The command's exit code; 128 + signal where a signal ended it, as shells say it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// What a shell reports for a command that a signal ended.
pub(crate) fn code_after(signal: SignalKind) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(1))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// SIGINT, SIGTERM and SIGHUP: noted instead of obeyed from the moment they are watched, so that servers are stopped
/// and folders removed before we leave.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("cannot watch signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }

    /// The work's outcome, or the signal that came before it; the work is dropped then.
    pub(crate) async fn or_done<T>(&mut self, work: impl Future<Output = T>) -> Result<T, SignalKind> {
        tokio::select! {
            done = work => Ok(done),
            signal = self.next() => Err(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Cli::try_parse_from([&["pg"], args].concat()).map(|cli| cli.args)
    }

    #[test]
    fn the_command_is_taken_as_it_is() {
        let args = parse(&["--setting", "work_mem=1MB", "--exec", "--", "sh", "-c", "--exec"]).unwrap();
        assert_eq!(args.command, ["sh", "-c", "--exec"]);
        assert_eq!(args.settings, [("work_mem".to_owned(), "1MB".to_owned())]);
        assert!(parse(&[]).is_ok());
        for wrong in [
            &["--exec"][..],
            &["--", "true"],
            &["--setting", "x"],
            &["--setting", "=1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn codes_are_as_shells_say_them() {
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(code(ExitStatus::from_raw(9)), ExitCode::from(137));
        assert_eq!(code_after(SignalKind::interrupt()), ExitCode::from(130));
    }
}
