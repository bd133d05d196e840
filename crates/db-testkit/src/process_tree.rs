//! The processes of a server, found from outside.

use std::{io, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How often a process is looked at while something is expected of it.
pub(crate) const POLL: Duration = Duration::from_millis(2);

/// Sends a signal; a process that is gone counts as done.
pub(crate) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(io::Error::other("no process has this id"));
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until all of `pids` are gone (or dead and merely not reaped) or stopped; false when that takes too long.
pub(crate) async fn settled(pids: &[u32], want: Settled, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if pids.iter().all(|&pid| want.holds(state(pid))) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
}

/// What is expected of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Settled {
    /// It has ended, though its parent may not have reaped it yet.
    Gone,
    /// It is stopped, or has ended.
    Stopped,
}

impl Settled {
    pub(crate) fn holds(self, state: Option<char>) -> bool {
        match (self, state) {
            (_, None | Some('Z' | 'X')) => true,
            (Self::Stopped, Some('T' | 't')) => true,
            (Self::Gone | Self::Stopped, Some(_)) => false,
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;

    /// State letter and parent of a process.
    fn stat(pid: &str) -> Option<(char, u32)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program name may hold spaces and brackets: fields start behind the last bracket.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
    }

    pub(crate) fn state(pid: u32) -> Option<char> {
        stat(&pid.to_string()).map(|(state, _)| state)
    }

    pub(crate) fn children(parent: u32) -> Vec<u32> {
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let pid = name.parse().ok()?;
                (stat(&name)?.1 == parent).then_some(pid)
            })
            .collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::process::{Command, Stdio};

    fn output(program: &str, args: &[&str]) -> Option<String> {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()
    }

    pub(crate) fn state(pid: u32) -> Option<char> {
        output("ps", &["-o", "stat=", "-p", &pid.to_string()])?
            .trim()
            .chars()
            .next()
    }

    pub(crate) fn children(parent: u32) -> Vec<u32> {
        let listed = output("pgrep", &["-P", &parent.to_string()]).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

pub(crate) use system::{children, state};
