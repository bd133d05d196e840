//! The System V segment that a killed postmaster leaves behind.
//!
//! It is 56 bytes, but a system has only some thousand of them and keeps them until the next boot.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Removes the segment of a dead server, if it left one. Best effort, and only where `/proc` shows that nobody uses it.
pub(crate) fn release(data: &Path) {
    // A postmaster that ended in order has removed this file and its segment.
    let Ok(pid_file) = fs::read_to_string(data.join("postmaster.pid")) else {
        return;
    };
    let Ok(segments) = fs::read_to_string("/proc/sysvipc/shm") else {
        return;
    };
    if let Some(id) = orphan(&pid_file, &segments) {
        let _ = Command::new("ipcrm")
            .args(["-m", id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// The id in the pid file, if the system's table says that this very postmaster made it and that nobody is attached.
fn orphan<'p>(pid_file: &'p str, segments: &str) -> Option<&'p str> {
    let postmaster = pid_file.lines().next()?.trim();
    let id = pid_file.lines().nth(6)?.split_whitespace().nth(1)?;
    segments
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|row| row.get(1) == Some(&id) && row.get(4) == Some(&postmaster) && row.get(6) == Some(&"0"))
        .then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID_FILE: &str = "4711\n/tmp/x/data\n1790000000\n23456\n/tmp/x\n127.0.0.1\n  1234567        42\nready   \n";
    const HEAD: &str = "       key      shmid perms size  cpid  lpid nattch   uid   gid  cuid  cgid\n";

    #[test]
    fn only_the_own_unused_segment() {
        let row = |cpid: u32, attached: u32| format!("{HEAD}  1234567 42 600 56 {cpid} {cpid} {attached} 1 1 1 1\n");
        assert_eq!(orphan(PID_FILE, &row(4711, 0)), Some("42"));
        assert_eq!(orphan(PID_FILE, &row(4711, 1)), None);
        assert_eq!(orphan(PID_FILE, &row(99, 0)), None);
        assert_eq!(orphan("4711\n", &row(4711, 0)), None);
    }
}
