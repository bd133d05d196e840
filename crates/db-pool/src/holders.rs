//! Who holds which lease: written under the pool's lock at every checkout, read when somebody asks why it is full.

use crate::conn::{Backend, Conn};
use db_core::{Call, Fingerprint, Holder, LeaseId, Priority, QueryClass, Tenant};
use std::{panic::Location, time::Duration};
use tokio::time::Instant;

/// What a caller said of itself.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) site: Option<&'static Location<'static>>,
    pub(crate) statement: Option<Fingerprint>,
    pub(crate) class: QueryClass,
    pub(crate) priority: Priority,
    /// [`Tenant::key`] of the call's tenant.
    pub(crate) tenant: Option<u64>,
}

impl From<&Call> for Caller {
    fn from(call: &Call) -> Self {
        Self {
            site: call.site,
            statement: call.statement,
            class: call.class,
            priority: call.priority,
            tenant: call.tenant.as_ref().map(Tenant::key),
        }
    }
}

impl Caller {
    /// With whom it takes turns: callers of its tenant, else of its call site, have one share together.
    pub(crate) fn flow(&self) -> u64 {
        self.tenant
            .or_else(|| self.site.map(|site| std::ptr::from_ref(site).addr() as u64))
            .unwrap_or_default()
    }
}

/// A lease in use.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) caller: Caller,
    pub(crate) since: Instant,
    /// What its flow was charged for it beforehand.
    pub(crate) charged: Duration,
    serial: u64,
    /// Taken back: the connection is closed when the lease comes back.
    revoked: bool,
}

struct Place {
    backend: Backend,
    born: Instant,
    entry: Option<Entry>,
}

/// What has become of a lease that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the pool's.
    Held,
    /// It was revoked: its connection must go.
    Revoked,
    /// It was revoked, and its place has been given to another connection.
    WrittenOff,
}

/// A slab with one place per open connection.
#[derive(Default)]
pub(crate) struct Holders {
    places: Vec<Option<Place>>,
    free: Vec<u32>,
}

impl Holders {
    /// A place for a new connection.
    pub(crate) fn open(&mut self, backend: Backend, born: Instant) -> u32 {
        let place = Some(Place {
            backend,
            born,
            entry: None,
        });
        match self.free.pop() {
            Some(slot) => {
                self.places[slot as usize] = place;
                slot
            }
            None => {
                self.places.push(place);
                u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self, slot: u32) {
        self.places[slot as usize] = None;
        self.free.push(slot);
    }

    pub(crate) fn take(&mut self, conn: &Conn, caller: Caller, charged: Duration) {
        if let Some(place) = self.place_mut(conn.slot) {
            place.entry = Some(Entry {
                caller,
                since: conn.leased,
                charged,
                serial: conn.serial,
                revoked: false,
            });
        }
    }

    pub(crate) fn give_back(&mut self, slot: u32) -> Option<Entry> {
        self.place_mut(slot)?.entry.take()
    }

    /// How a lease that comes back stands.
    pub(crate) fn standing(&self, conn: &Conn) -> Standing {
        match self.entry(conn.id()) {
            Some(Entry { revoked: false, .. }) => Standing::Held,
            Some(_) => Standing::Revoked,
            None => Standing::WrittenOff,
        }
    }

    /// The server's process under a lease that is out.
    pub(crate) fn backend(&self, lease: LeaseId) -> Option<&Backend> {
        self.entry(lease)?;
        Some(&self.place(lease.slot)?.backend)
    }

    /// The same, of one that was revoked.
    pub(crate) fn revoked(&self, lease: LeaseId) -> Option<&Backend> {
        self.entry(lease).filter(|entry| entry.revoked)?;
        Some(&self.place(lease.slot)?.backend)
    }

    /// Marks a lease that is out as revoked.
    pub(crate) fn revoke(&mut self, lease: LeaseId) -> bool {
        let entry = self.place_mut(lease.slot).and_then(|place| place.entry.as_mut());
        let Some(entry) = entry.filter(|entry| entry.serial == lease.serial) else {
            return false;
        };
        entry.revoked = true;
        true
    }

    /// Frees the place of a revoked lease, and says how old its connection got.
    pub(crate) fn write_off(&mut self, lease: LeaseId) -> Option<(Entry, Duration)> {
        self.revoked(lease)?;
        let entry = *self.entry(lease)?;
        let born = self.place(lease.slot)?.born;
        self.close(lease.slot);
        Some((entry, born.elapsed()))
    }

    fn place(&self, slot: u32) -> Option<&Place> {
        self.places.get(slot as usize)?.as_ref()
    }

    fn place_mut(&mut self, slot: u32) -> Option<&mut Place> {
        self.places.get_mut(slot as usize)?.as_mut()
    }

    fn entry(&self, lease: LeaseId) -> Option<&Entry> {
        let entry = self.place(lease.slot)?.entry.as_ref()?;
        (entry.serial == lease.serial).then_some(entry)
    }

    /// Those who hold a lease, longest first.
    pub(crate) fn longest(&self, now: Instant, most: usize) -> Vec<Holder> {
        let places = self.places.iter().flatten();
        let mut entries: Vec<_> = places
            .filter_map(|place| Some((place.entry.as_ref()?, place.backend.pid)))
            .collect();
        entries.sort_by_key(|(entry, _)| entry.since);
        entries
            .into_iter()
            .take(most)
            .map(|(entry, pid)| {
                let mut holder = Holder::new(entry.caller.class, now.saturating_duration_since(entry.since));
                holder.priority = entry.caller.priority;
                holder.site = entry.caller.site;
                holder.statement = entry.caller.statement;
                holder.backend_pid = Some(pid);
                holder
            })
            .collect()
    }
}
