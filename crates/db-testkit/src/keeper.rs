//! The thread that starts servers.
//!
//! Linux ties a parent-death signal to the *thread* that forked, so a server started from a runtime worker would be killed
//! when that worker ends. One thread that lives as long as the process starts them all.

use std::{
    ffi::OsStr,
    io,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
};

use tokio::sync::{mpsc, oneshot};

type Job = (Command, oneshot::Sender<io::Result<Child>>);

/// Starts that may wait for the keeper thread.
const QUEUE: usize = 64;

/// Starts `command` as a child that dies with this process.
///
/// Cancel safe: a child that nobody waits for any more is killed and reaped.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel(QUEUE);
        // When the thread can't be made, `jobs` is dropped and every send reports it.
        drop(
            thread::Builder::new()
                .name("db-testkit-keeper".to_owned())
                .spawn(move || keep(jobs)),
        );
        sender
    });
    let gone = || io::Error::other("the thread that starts servers is gone");
    let (reply, child) = oneshot::channel();
    keeper.send((command, reply)).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn keep(mut jobs: mpsc::Receiver<Job>) {
    while let Some((mut command, reply)) = jobs.blocking_recv() {
        if let Err(Ok(mut unwanted)) = reply.send(command.spawn()) {
            // Both only fail when it has ended already.
            let _ = unwanted.kill();
            let _ = unwanted.wait();
        }
    }
}

/// A command for `program` that is killed with the thread that spawns it, where the system can do that.
pub(crate) fn mortal_command(program: &OsStr) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let can = *SETPRIV.get_or_init(|| {
        cfg!(target_os = "linux")
            && Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    });
    if can {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
