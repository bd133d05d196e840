//! Removes what killed test processes left behind.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    home::{OWNER, PREFIX},
    process_tree, shared_memory,
};

/// Folders removed per start: more than one process leaves behind, few enough not to be noticed.
const MOST: usize = 8;
/// Time spent per start.
const BUDGET: Duration = Duration::from_secs(2);
/// A folder without a lock may be one that is just being made.
const YOUNG: Duration = Duration::from_secs(60);

/// Removes folders below `bases` whose owner is dead, and ends servers that outlived it. Returns how many it removed.
///
/// Best effort: what can't be removed (another user's, say) is left alone.
pub(crate) fn sweep(bases: &[PathBuf]) -> usize {
    let deadline = Instant::now() + BUDGET;
    let mut removed = 0;
    for entry in bases.iter().flat_map(fs::read_dir).flatten().flatten() {
        if removed == MOST || Instant::now() >= deadline {
            break;
        }
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // `file_type` does not follow links: a link that bears our prefix is not ours.
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && remove_if_stale(&entry.path()) {
            removed += 1;
        }
    }
    removed
}

fn remove_if_stale(dir: &Path) -> bool {
    // Held until the folder is gone, so that of two sweepers only one removes it.
    let _lock = match File::open(dir.join(OWNER)) {
        Ok(owner) => match owner.try_lock() {
            Ok(()) => Some(owner),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return false,
        },
        Err(_) => None,
    };
    // The owner may be between making its folder, its file and its lock.
    if young(dir) && (_lock.is_none() || owner_lives(dir)) {
        return false;
    }
    end_orphan(dir);
    shared_memory::release(&dir.join("data"));
    fs::remove_dir_all(dir).is_ok()
}

fn young(dir: &Path) -> bool {
    let made = fs::metadata(dir).and_then(|meta| meta.modified());
    made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age < YOUNG))
}

/// The folder name holds the process id from the very first moment.
fn owner_lives(dir: &Path) -> bool {
    let pid = dir
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
    pid.is_some_and(|pid| !process_tree::Settled::Gone.holds(process_tree::state(pid)))
}

/// Where the system has no parent-death signal, the server may have outlived its owner.
fn end_orphan(dir: &Path) {
    let data = dir.join("data");
    let pid = fs::read_to_string(data.join("postmaster.pid"))
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
    let Some(pid) = pid else { return };
    let arguments = Command::new("ps")
        .args(["-o", "args=", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .output();
    let is_ours = arguments.is_ok_and(|output| {
        data.to_str()
            .is_some_and(|data| String::from_utf8_lossy(&output.stdout).contains(data))
    });
    if is_ours {
        for pid in process_tree::children(pid).into_iter().chain([pid]) {
            let _ = process_tree::signal(pid, rustix::process::Signal::KILL);
        }
    }
}
