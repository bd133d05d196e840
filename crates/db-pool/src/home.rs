//! The runtime in which the pool's tasks live, for as long as it lives.

use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::runtime::Handle;

/// Knows whether the tasks are alive, and where.
#[derive(Default)]
pub(crate) struct Home {
    /// Asked at every acquire.
    alive: Arc<AtomicBool>,
    runtime: Mutex<Option<Handle>>,
}

/// Held by a task of the pool: dropped with it, when the runtime goes.
pub(crate) struct Resident(Arc<AtomicBool>);

impl Drop for Resident {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Home {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Takes this runtime for the home of the tasks; nothing when there is a live one.
    pub(crate) fn move_in(&self, runtime: &Handle) -> Option<Resident> {
        if self.alive.swap(true, Ordering::AcqRel) {
            return None;
        }
        *self.runtime.lock() = Some(runtime.clone());
        Some(Resident(self.alive.clone()))
    }

    /// Where the tasks live or lived last.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.runtime.lock().clone()
    }
}
