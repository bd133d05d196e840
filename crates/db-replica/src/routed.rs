//! The layer's service: what does not write goes to a replica that can show what the call must see.

use crate::{
    causality::{self, Floor},
    cluster::Cluster,
    fallback,
    member::Member,
    p2c,
    picked::Picked,
    readers::Reader,
    route::{Again, Route, again, route},
    routing::{Choice, Routing},
    shared::is_fault,
    stats::ReplicaStats,
    ticket::Ticket,
};
use db_core::{Call, CausalSession, Error, Operation, Result, Service, Target};
use std::{
    fmt,
    ops::Deref,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

/// A service that sends pure reads to replicas and everything else to the primary. Made by
/// [`ReplicaLayer`](crate::ReplicaLayer); cheap to clone.
///
/// Cancel-safe: a dropped call drops the one inside and counts as slow, not as failed.
pub struct Routed<S>(pub(crate) Arc<Routing<S>>);

impl<S> Routed<S> {
    /// The nodes.
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The nodes as they were last looked at, and where calls went.
    pub fn stats(&self) -> ReplicaStats {
        self.0.counters.stats(&self.0.cluster)
    }

    /// The primary has so many connections: its share for reads that no replica can serve follows.
    pub fn set_primary_connections(&self, connections: u32) {
        let share = self.0.cluster.config().fallback_share;
        self.0.fallback.resize(fallback::places(connections, share));
    }

    /// A replica for a read that is not an operation, such as a read-only transaction; `None` when it belongs on the
    /// primary.
    ///
    /// # Errors
    /// [`Error::Causal`] when the session's token can't be honoured.
    pub async fn pick(&self, call: &Call) -> Result<Option<Picked<S>>> {
        let routing = &*self.0;
        if !routing.cluster.is_active() || !routing.cluster.config().mode.enforces() {
            return Ok(None);
        }
        routing.cluster.start();
        if call.target == Target::Primary {
            return Ok(None);
        }
        Ok(match routing.choose(call, None).await? {
            Choice::Replica(reader, _) => Some(Picked::new(reader, routing.cluster.config().latency_decay)),
            Choice::Primary => None,
        })
    }

    /// A place in the primary's share for reads that no replica can serve, for what [`Routed::pick`] sends there.
    ///
    /// # Errors
    /// [`AcquireFailure::NoReplica`](db_core::AcquireFailure::NoReplica) after [`fallback_wait`](crate::ReplicaConfig);
    /// [`AcquireFailure::NoPrimary`](db_core::AcquireFailure::NoPrimary) while there is no primary.
    pub async fn place(&self, call: &Call) -> Result<Place> {
        if !self.0.cluster.is_active() || call.target == Target::Primary {
            return Ok(Place(None));
        }
        self.0.may_write()?;
        Ok(Place(Some(self.0.place(call).await?)))
    }

    /// The stacks for reads on the nodes that there are.
    pub fn services(&self) -> Vec<(Member, impl Deref<Target = S> + use<S>)> {
        let readers = self.0.readers.current(&self.0.cluster.shared);
        let services = readers
            .1
            .iter()
            .map(|reader| (reader.node.member.clone(), ServiceOf(reader.clone())));
        services.collect()
    }

    /// Whether writes may go out, for what takes its lease without this layer.
    ///
    /// # Errors
    /// [`AcquireFailure::NoPrimary`](db_core::AcquireFailure::NoPrimary) while no node is known to be the primary.
    pub fn may_write(&self) -> Result<()> {
        self.0.may_write()
    }

    /// A call on the primary that did not go through this layer has failed: looks for the primary anew where the error
    /// says so, and waits for the answers when the node takes no writes.
    pub async fn primary_failed(&self, error: &Error) {
        if self.0.cluster.is_active() {
            let limit = self.0.cluster.config().probe_timeout;
            self.0.shared().primary_failed(error, limit).await;
        }
    }
}

impl<S> Routing<S> {
    async fn among_nodes<Op>(&self, call: &Call, op: &Op) -> Result<Op::Output>
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        self.cluster.start();
        let enforces = self.cluster.config().mode.enforces();
        match route(call, op.facts().map(|facts| &**facts)) {
            Route::Replica if enforces => self.read(call, op).await,
            Route::Replica => {
                self.counters.would_read.fetch_add(1, Ordering::Relaxed);
                self.on_primary(call, op, false).await
            }
            Route::Primary { writes } => {
                self.counters.primary.fetch_add(1, Ordering::Relaxed);
                self.on_primary(call, op, writes).await
            }
        }
    }

    async fn on_primary<Op>(&self, call: &Call, op: &Op, writes: bool) -> Result<Op::Output>
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        self.may_write()?;
        if let Some(token) = call.session.as_ref().and_then(|session| session.seen().token) {
            let limit = Instant::now() + self.cluster.config().causal_wait;
            causality::known(self.shared(), token, limit).await?;
        }
        let seen = SawPrimary {
            session: call.session.as_deref(),
            wrote: writes,
        };
        let out = self.writer.call(call, op).await;
        // Before the wait below: it ended now.
        drop(seen);
        if let Err(error) = &out {
            let limit = self.cluster.config().probe_timeout;
            let left = call.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.shared()
                .primary_failed(error, left.map_or(limit, |left| left.min(limit)))
                .await;
        }
        out
    }

    async fn read<Op>(&self, call: &Call, op: &Op) -> Result<Op::Output>
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        let mut avoid = None;
        // A replica, another one, the primary: each attempt has learned something about the one before.
        while let Choice::Replica(reader, floor) = self.choose(call, avoid).await? {
            let (reader, out) = self.on_replica(&reader, &floor, call, op).await;
            let error = match out {
                Ok(out) => {
                    if let Some(session) = &call.session {
                        session.saw_replica(reader.node.id, Instant::now());
                    }
                    return Ok(out);
                }
                Err(error) => error,
            };
            let next = if op.replayable() { again(&error) } else { Again::Nowhere };
            match next {
                Again::Nowhere => return Err(error),
                Again::Elsewhere if avoid.is_none() => avoid = Some(reader.node.id),
                Again::Elsewhere | Again::Primary => break,
            }
            self.counters.rerouted.fetch_add(1, Ordering::Relaxed);
        }
        self.in_place_of_replicas(call, op).await
    }

    /// A read that no replica can serve, within the primary's share for such reads.
    async fn in_place_of_replicas<Op>(&self, call: &Call, op: &Op) -> Result<Op::Output>
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        let place = self.place(call).await?;
        if let Some(primary) = self.shared().primary() {
            primary.counts.in_place.fetch_add(1, Ordering::Relaxed);
        }
        let out = self.on_primary(call, op, false).await;
        drop(place);
        out
    }

    /// The read on one replica, and on a second one when the first is slow and hedging is on. Says which one answered.
    async fn on_replica<Op>(
        &self,
        reader: &Arc<Reader<S>>,
        floor: &Floor,
        call: &Call,
        op: &Op,
    ) -> (Arc<Reader<S>>, Result<Op::Output>)
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        let config = self.cluster.config();
        if !config.hedge.is_off() && op.concurrent() && op.replayable() {
            self.hedges.deposit(config.hedge_share);
            return Box::pin(self.hedged(reader, floor, call, op)).await;
        }
        let out = run(reader, config.latency_decay, call, op).await;
        (reader.clone(), out)
    }

    async fn hedged<Op>(
        &self,
        first: &Arc<Reader<S>>,
        floor: &Floor,
        call: &Call,
        op: &Op,
    ) -> (Arc<Reader<S>>, Result<Op::Output>)
    where
        S: Service<Op>,
        Op: Operation + ?Sized,
    {
        let config = self.cluster.config();
        let decay = config.latency_decay;
        let mut one = pin!(run(first, decay, call, op));
        if let Ok(out) = timeout(config.hedge_after, one.as_mut()).await {
            return (first.clone(), out);
        }
        let readers = self.readers.current(self.shared());
        let other =
            |reader: &Reader<S>| reader.node.id != first.node.id && reader.node.serves() && floor.allows(&reader.node);
        let Some(second) = p2c::pick(&readers.1, decay, other).filter(|_| self.hedges.withdraw()) else {
            return (first.clone(), one.await);
        };
        self.counters.hedges.fetch_add(1, Ordering::Relaxed);
        if !config.hedge.enforces() {
            return (first.clone(), one.await);
        }
        second.node.counts.hedges.fetch_add(1, Ordering::Relaxed);
        let mut two = pin!(run(&second, decay, call, op));
        // The other one is dropped, and thereby cancelled on its server; but an answer is better than a fault.
        tokio::select! {
            out = one.as_mut() => match out {
                Err(error) if is_fault(&error) => (second.clone(), two.await),
                out => (first.clone(), out),
            },
            out = two.as_mut() => match out {
                Err(_) => (first.clone(), one.await),
                out => {
                    self.counters.hedges_won.fetch_add(1, Ordering::Relaxed);
                    (second.clone(), out)
                }
            },
        }
    }
}

async fn run<S, Op>(reader: &Reader<S>, decay: Duration, call: &Call, op: &Op) -> Result<Op::Output>
where
    S: Service<Op>,
    Op: Operation + ?Sized,
{
    let ticket = Ticket::begin(&reader.node, decay);
    let out = reader.service.call(call, op).await;
    ticket.done(matches!(&out, Err(error) if is_fault(error)));
    out
}

/// A place in the primary's share for reads that no replica can serve, until dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

/// The service of a node that stays usable when the node leaves.
struct ServiceOf<S>(Arc<Reader<S>>);

impl<S> Deref for ServiceOf<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0.service
    }
}

fn writes<Op: Operation + ?Sized>(op: &Op) -> bool {
    !op.facts().is_some_and(|facts| facts.is_pure_read())
}

/// However the call ends: it may have seen, or done, something there.
struct SawPrimary<'a> {
    session: Option<&'a CausalSession>,
    wrote: bool,
}

impl Drop for SawPrimary<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            session.saw_primary(Instant::now(), self.wrote);
        }
    }
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Routed<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let routing = &*self.0;
        if !routing.cluster.is_active() {
            // A session is remembered all the same: its token may be for somebody who has replicas.
            let seen = SawPrimary {
                session: call.session.as_deref(),
                wrote: call.session.is_some() && writes(op),
            };
            let out = routing.writer.call(call, op).await;
            drop(seen);
            return out;
        }
        // Boxed: a database without replicas must not carry all this in every call.
        Box::pin(routing.among_nodes(call, op)).await
    }
}

impl<S> Clone for Routed<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for Routed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed")
            .field("cluster", &self.0.cluster)
            .finish_non_exhaustive()
    }
}
