//! Those who wait for a lease, first come first served.

use crate::{holders::Caller, lease::PoolLease};
use db_core::Error;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// What a waiter gets.
pub(crate) type Grant = Result<PoolLease, Error>;

/// One who waits.
pub(crate) struct Waiter {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    pub(crate) grant: oneshot::Sender<Grant>,
}

/// A queue in the order of arrival. Its bound is the pool's: it knows whether to refuse or only to count.
#[derive(Default)]
pub(crate) struct Queue {
    waiters: VecDeque<Waiter>,
    next: u64,
}

impl Queue {
    /// Appends a waiter; the number it gets takes it out again.
    pub(crate) fn push(&mut self, caller: Caller, grant: oneshot::Sender<Grant>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiters.push_back(Waiter { id, caller, grant });
        id
    }

    /// The next waiter.
    pub(crate) fn pop(&mut self) -> Option<Waiter> {
        self.waiters.pop_front()
    }

    /// A waiter gave up, or had been served already. Numbers ascend, so finding it is quick.
    pub(crate) fn leave(&mut self, id: u64) {
        if let Ok(at) = self.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            self.waiters.remove(at);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn drain(&mut self) -> VecDeque<Waiter> {
        std::mem::take(&mut self.waiters)
    }
}
