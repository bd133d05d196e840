//! A postmaster that is a child of this process.

use std::{
    io,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    keeper,
    process_tree::{self, POLL, Settled},
};

/// How long a killed process may take to vanish.
const DEATH: Duration = Duration::from_secs(5);
/// How long a dropped server may take for an orderly end before it is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running (or just ended) postmaster. Dropping it ends the server and waits for that.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) async fn spawn(command: Command) -> io::Result<Self> {
        Ok(Self {
            child: keeper::spawn(command).await?,
            ended: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // The child is not reaped yet while `ended` is empty, so its id can't belong to another process.
        if self.ended.is_some() {
            Ok(())
        } else {
            process_tree::signal(self.pid(), signal)
        }
    }

    /// The exit status once it has ended; reaps it.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for the end; `None` when it takes longer than `within`.
    pub(crate) async fn wait(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// Kills the postmaster and all its children, as a power cut would, and waits until all are gone.
    ///
    /// Killing the postmaster alone leaves busy backends behind, and a restart then fails on their shared memory.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        let children = self.kill_signals()?;
        self.wait(DEATH).await?;
        process_tree::settled(&children, Settled::Gone, DEATH).await;
        Ok(())
    }

    fn kill_signals(&mut self) -> io::Result<Vec<u32>> {
        if self.ended()?.is_some() {
            return Ok(Vec::new());
        }
        // A stopped postmaster makes no more children, so the list is complete.
        self.signal(Signal::STOP)?;
        self.wait_stopped();
        let children = process_tree::children(self.pid());
        self.signal(Signal::KILL)?;
        for &child in &children {
            process_tree::signal(child, Signal::KILL)?;
        }
        Ok(children)
    }

    fn wait_stopped(&self) {
        let deadline = Instant::now() + Duration::from_millis(200);
        while !Settled::Stopped.holds(process_tree::state(self.pid())) && Instant::now() < deadline {
            thread::yield_now();
        }
    }

    fn wait_blocking(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            // An error here means that there is no such child any more.
            if !matches!(self.ended(), Ok(None)) {
                return true;
            }
            thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.ended(), Ok(None)) {
            return;
        }
        // An immediate shutdown gives the System V segment back, which a kill would leak until the next boot.
        for child in process_tree::children(self.pid()) {
            let _ = process_tree::signal(child, Signal::CONT);
        }
        let _ = self.signal(Signal::CONT);
        let _ = self.signal(Signal::QUIT);
        if !self.wait_blocking(FAREWELL) {
            let _ = self.kill_signals();
            self.wait_blocking(DEATH);
        }
    }
}
