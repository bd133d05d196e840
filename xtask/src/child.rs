//! Running a command to its end: a signal never makes us leave before the child has cleaned up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const POLL: Duration = Duration::from_millis(20);

/// Set by signals from the first `watch` on; before it a signal ends us as usual.
struct Signals {
    interrupted: Arc<AtomicBool>,
    terminate: Arc<AtomicBool>,
}

/// How a command ended.
pub(crate) struct Ended {
    status: ExitStatus,
    /// The limit ran out and it was killed.
    pub(crate) late: bool,
}

impl Ended {
    pub(crate) fn success(&self) -> bool {
        self.status.success() && !self.late
    }

    /// The child's exit code; 128 + signal where a signal ended it, as shells say it.
    pub(crate) fn code(&self) -> u8 {
        let code = self
            .status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

/// From here on SIGINT, SIGTERM and SIGHUP are noted, not obeyed: `run` waits for the child, then `interrupted` tells.
pub(crate) fn watch() -> Result<()> {
    let signals = signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&signals.interrupted)).context("cannot watch signals")?;
    }
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&signals.terminate)).context("cannot watch signals")?;
    }
    Ok(())
}

/// Whether someone asked us to stop: then start nothing more.
pub(crate) fn interrupted() -> bool {
    signals().interrupted.load(Ordering::Relaxed)
}

/// What a shell reports for Ctrl-C.
pub(crate) fn interrupted_code() -> ExitCode {
    ExitCode::from(130)
}

pub(crate) fn run(command: &mut Command) -> Result<Ended> {
    wait(&mut spawn(command)?, None)
}

/// Like `run`, but kills the command when `limit` has passed.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Ended> {
    wait(&mut spawn(command)?, Some(limit))
}

/// Runs it with its standard output passed on line by line, also to `see`.
pub(crate) fn run_seen(command: &mut Command, see: &mut (dyn FnMut(&str) + Send)) -> Result<Ended> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    let output = child.stdout.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            for line in output
                .into_iter()
                .flat_map(|output| BufReader::new(output).lines())
                .map_while(Result::ok)
            {
                // A closed standard output is no reason to stop counting.
                let _ = writeln!(std::io::stdout(), "{line}");
                see(&line);
            }
        });
        wait(&mut child, None)
    })
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Ended> {
    let started = Instant::now();
    let mut late = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended { status, late });
        }
        // A terminal's Ctrl-C reaches the child by itself; the others may have been sent to us alone.
        if signals().terminate.swap(false, Ordering::Relaxed) {
            terminate(child);
        }
        if !late && limit.is_some_and(|limit| started.elapsed() > limit) {
            late = true;
            child.kill()?;
        }
        thread::sleep(POLL);
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may just have ended, which is what we want.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn signals() -> &'static Signals {
    static SIGNALS: OnceLock<Signals> = OnceLock::new();
    SIGNALS.get_or_init(|| Signals {
        interrupted: Arc::default(),
        terminate: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn the_exit_code_is_the_childs() {
        assert_eq!(run(&mut sh("exit 7")).unwrap().code(), 7);
        assert_eq!(run(&mut sh("kill -KILL $$")).unwrap().code(), 137);
        assert!(run(&mut sh("exit 0")).unwrap().success());
    }

    #[test]
    fn a_limit_ends_the_child() {
        let ended = run_within(&mut sh("exec sleep 30"), Duration::from_millis(50)).unwrap();
        assert!(ended.late && !ended.success());
    }

    #[test]
    fn output_is_seen_line_by_line() {
        let mut seen = Vec::new();
        run_seen(&mut sh("echo one; echo two"), &mut |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["one", "two"]);
    }
}
