//! Which leases keep a backtrace.

use crate::usage::By;
use parking_lot::Mutex;
use std::{
    backtrace::Backtrace,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Sites that may wait for their next lease.
const WANTED: usize = 64;

/// Sites that were suspect: their next lease keeps a backtrace, since whoever leaks once leaks again.
#[derive(Default)]
pub(crate) struct Sampled {
    any: AtomicBool,
    sites: Mutex<HashSet<u64>>,
}

impl Sampled {
    pub(crate) fn wants_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// The next lease of this site keeps one.
    pub(crate) fn want(&self, by: By) {
        let mut sites = self.sites.lock();
        if sites.len() < WANTED {
            sites.insert(by.key());
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// A backtrace of this moment, if it is wanted.
    pub(crate) fn take(&self, by: By, share: f64) -> Option<Arc<Backtrace>> {
        let wanted = {
            let mut sites = self.sites.lock();
            let wanted = sites.remove(&by.key());
            self.any.store(!sites.is_empty(), Ordering::Relaxed);
            wanted
        };
        let taken = wanted || (share > 0.0 && fastrand::f64() < share);
        taken.then(|| Arc::new(Backtrace::force_capture()))
    }
}
