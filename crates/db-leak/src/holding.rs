//! Which tasks may hold a lease: so few do while they ask for another that all others need not be watched for it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Tasks that share a cell are taken for one another, which costs the innocent one an alarm and nothing else.
const CELLS: usize = 256;

/// How many leases are out, by task.
pub(crate) struct Holding([AtomicU32; CELLS]);

impl Default for Holding {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; CELLS])
    }
}

impl Holding {
    pub(crate) fn add(&self, task: u64) {
        self.cell(task).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, task: u64) {
        self.cell(task).fetch_sub(1, Ordering::Relaxed);
    }

    /// False for a task that holds none.
    pub(crate) fn may_hold(&self, task: u64) -> bool {
        self.cell(task).load(Ordering::Relaxed) > 0
    }

    fn cell(&self, task: u64) -> &AtomicU32 {
        // Tasks are numbered as they come; threads, in the upper half, too.
        &self.0[(task as usize) % CELLS]
    }
}
