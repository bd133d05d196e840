//! Who holds which lease: written under the pool's lock at every checkout, read when somebody asks why it is full.

use db_core::{Call, Fingerprint, Holder, QueryClass};
use std::panic::Location;
use tokio::time::Instant;

/// What a caller said of itself.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) site: Option<&'static Location<'static>>,
    pub(crate) statement: Option<Fingerprint>,
    pub(crate) class: QueryClass,
}

impl From<&Call> for Caller {
    fn from(call: &Call) -> Self {
        Self {
            site: call.site,
            statement: call.statement,
            class: call.class,
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    caller: Caller,
    since: Instant,
    pid: i32,
}

/// A slab with one place per open connection.
#[derive(Default)]
pub(crate) struct Holders {
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Holders {
    /// A place for a new connection.
    pub(crate) fn open(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self, slot: u32) {
        self.give_back(slot);
        self.free.push(slot);
    }

    pub(crate) fn take(&mut self, slot: u32, caller: Caller, since: Instant, pid: i32) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = Some(Entry { caller, since, pid });
        }
    }

    pub(crate) fn give_back(&mut self, slot: u32) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = None;
        }
    }

    /// Those who hold a lease, longest first.
    pub(crate) fn longest(&self, now: Instant, most: usize) -> Vec<Holder> {
        let mut entries: Vec<_> = self.places.iter().flatten().collect();
        entries.sort_by_key(|entry| entry.since);
        entries
            .into_iter()
            .take(most)
            .map(|entry| {
                let mut holder = Holder::new(entry.caller.class, now.saturating_duration_since(entry.since));
                holder.site = entry.caller.site;
                holder.statement = entry.caller.statement;
                holder.backend_pid = Some(entry.pid);
                holder
            })
            .collect()
    }
}
