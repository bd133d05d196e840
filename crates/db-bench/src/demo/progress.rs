//! One line per second while the workload runs.

use std::{
    io::{IsTerminal, Write, stdout},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use db_stack::Db;
use tokio::time::{Instant, interval_at};

const ROUND: Duration = Duration::from_secs(1);

/// Counted by the tasks as they go.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Counts>);

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    orders: AtomicU64,
    errors: AtomicU64,
}

impl Progress {
    pub(crate) fn call(&self) {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn order(&self) {
        self.0.orders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn error(&self) {
        self.0.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Prints until it is dropped: over the same line on a terminal, else line by line.
pub(crate) async fn show(db: &Db, progress: &Progress) {
    let terminal = stdout().is_terminal();
    let start = Instant::now();
    let mut rounds = interval_at(start + ROUND, ROUND);
    let mut before = 0;
    loop {
        rounds.tick().await;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let calls = load(&progress.0.calls);
        let stats = db.stats();
        let line = format!(
            "{:>4} s  {:>7} calls/s  {:>8} orders  {:>5} errors  {} connections, {} callers wait",
            start.elapsed().as_secs(),
            calls - before,
            load(&progress.0.orders),
            load(&progress.0.errors),
            stats.size,
            stats.waiting
        );
        before = calls;
        let mut out = stdout();
        // Progress that nobody reads is no reason to stop.
        let _ = if terminal {
            write!(out, "\r\x1b[K{line}")
        } else {
            writeln!(out, "{line}")
        };
        let _ = out.flush();
    }
}

/// Leaves the line that was written over.
pub(crate) fn finish() {
    if stdout().is_terminal() {
        println!();
    }
}
