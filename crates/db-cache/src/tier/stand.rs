//! Where an answer lies in the store, for one read.

use crate::{cache, request::Request, versions::Snapshot};
use tokio::time::Instant;

/// The name under which a read looks for its answer, and puts it.
#[derive(Clone, Debug)]
pub(crate) struct Stand {
    pub(crate) key: String,
    /// Until when the notifications had been heard for certain; `None` when there are writes that this process knows of and
    /// has not heard of, so that it can't tell whether what lies there shows them. What it reads itself may be put there all
    /// the same: it shows more than the name says, never less.
    pub(crate) heard: Option<Instant>,
}

impl cache::Shared {
    /// The place of a read that begins with this snapshot; `None` for what is not shared. After the snapshot, and before
    /// the read: a notification that comes between the two moves the name on, never back.
    pub(crate) fn stand(&self, request: &Request<'_>, snapshot: &Snapshot) -> Option<Stand> {
        let (tier, key) = (self.tier.get()?, request.shared?);
        let now = Instant::now();
        // A tag is dropped in one process alone.
        if !request.policy.tags.is_empty() || !snapshot.is_storable() || !self.signals.verified(now) {
            return None;
        }
        let catalogue = self.catalogue.load();
        let catalogue = catalogue.as_ref()?;
        let tables = catalogue.dependencies(request.facts).ok()?;
        if !tables.iter().all(|oid| catalogue.is_watched(*oid)) {
            return None;
        }
        let Some(place) = tier.world.name(&catalogue.sources(&tables)) else {
            tier.behind();
            return None;
        };
        let heard = self.signals.heard_all_before().filter(|heard| {
            let unheard = snapshot.unheard();
            *heard >= request.since.map_or(unheard, |since| since.max(unheard))
        });
        if heard.is_none() {
            tier.behind();
            self.signals.beat.notify_one();
        }
        Some(Stand {
            key: tier.name(key, &place, catalogue.scope()),
            heard,
        })
    }
}
