//! The choice of a node for one read.

use crate::{
    causality::{self, Floor},
    cluster::Cluster,
    fallback::Fallback,
    hedge::HedgeBudget,
    p2c,
    readers::{Reader, Readers},
    shared::Shared,
    stats::Counters,
};
use db_core::{AcquireError, AcquireFailure, Call, NodeId, Result};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

pub(crate) struct Routing<S> {
    pub(crate) cluster: Cluster,
    pub(crate) writer: S,
    pub(crate) readers: Readers<S>,
    pub(crate) fallback: Fallback,
    pub(crate) hedges: HedgeBudget,
    pub(crate) counters: Counters,
}

/// Where a read runs.
pub(crate) enum Choice<S> {
    Replica(Arc<Reader<S>>, Floor),
    Primary,
}

impl<S> Routing<S> {
    pub(crate) fn shared(&self) -> &Shared {
        &self.cluster.shared
    }

    pub(crate) fn may_write(&self) -> Result<()> {
        if self.shared().may_write() || !self.cluster.is_active() || !self.cluster.config().mode.enforces() {
            return Ok(());
        }
        let mut refused = AcquireError::new(AcquireFailure::NoPrimary, Duration::ZERO);
        refused.retry_after = Some(self.cluster.config().search_interval);
        Err(refused.into())
    }

    /// A place in the primary's share for reads that no replica can serve.
    pub(crate) async fn place(&self, call: &Call) -> Result<OwnedSemaphorePermit> {
        let limit = Instant::now() + self.cluster.config().fallback_wait;
        let limit = call.deadline.map_or(limit, |deadline| deadline.min(limit));
        let place = self.fallback.place(limit).await;
        let count = match place {
            Ok(_) => &self.counters.fallbacks,
            Err(_) => &self.counters.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        place
    }

    /// A replica that can show what the call must see, or the primary. Waits for one when that is worth it.
    pub(crate) async fn choose(&self, call: &Call, avoid: Option<NodeId>) -> Result<Choice<S>> {
        let shared = self.shared();
        let config = self.cluster.config();
        let readers = self.readers.current(shared);
        let serves = |reader: &Reader<S>| reader.node.serves() && Some(reader.node.id) != avoid;
        let limit = Instant::now() + config.causal_wait;
        let limit = call.deadline.map_or(limit, |deadline| deadline.min(limit));
        let floor = causality::floor(shared, call, limit).await?;
        let pick = || {
            let allowed = |reader: &Reader<S>| serves(reader) && floor.allows(&reader.node);
            p2c::pick(&readers.1, config.latency_decay, allowed)
        };
        if let Some(reader) = pick() {
            return Ok(Choice::Replica(reader, floor));
        }
        if !readers.1.iter().any(|reader| serves(reader)) {
            self.counters.no_replica.fetch_add(1, Ordering::Relaxed);
            return Ok(Choice::Primary);
        }
        // One that is seconds behind will not be there in time; asked now, it may be for the next read.
        let left = limit.saturating_duration_since(Instant::now());
        let near = |reader: &Reader<S>| serves(reader) && reader.node.lag().is_none_or(|lag| lag <= left);
        let worth_it = !matches!(floor, Floor::Unknown) && readers.1.iter().any(|reader| near(reader));
        let picked = if worth_it {
            self.counters.waits.fetch_add(1, Ordering::Relaxed);
            shared.until_replayed(limit, pick).await
        } else {
            shared.nudge_all();
            None
        };
        Ok(match picked {
            Some(reader) => Choice::Replica(reader, floor),
            None => {
                self.counters.too_late.fetch_add(1, Ordering::Relaxed);
                Choice::Primary
            }
        })
    }
}
