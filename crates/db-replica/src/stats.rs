//! What has been counted, as plain data.

use crate::{cluster::Cluster, head::Writes, shared::Shared, standing::Standing};
use db_core::{CausalToken, Lsn};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A node as it was when it was last looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeStats {
    /// `host:port`.
    pub name: Arc<str>,
    /// Whether writes go to it.
    pub primary: bool,
    /// Whether it gets reads.
    pub standing: Standing,
    /// What it has replayed, or written.
    pub position: Option<CausalToken>,
    /// How far a replica is behind: zero when it has everything that is known of the primary, however long that has been
    /// idle.
    pub lag: Option<Duration>,
    /// The same in bytes of WAL.
    pub lag_bytes: Option<u64>,
    /// The latency that it is judged by.
    pub latency: Duration,
    /// Whether it is several times slower than the fastest of its peers: it gets a read now and then only.
    pub slow: bool,
    /// Reads under way.
    pub outstanding: u64,
    /// Reads that it answered.
    pub reads: u64,
    /// Reads that it ran as the primary since no replica could serve them.
    pub in_place: u64,
    /// Reads that failed through its own fault.
    pub faults: u64,
    /// Reads that it got because another node was slow.
    pub hedges: u64,
    /// Looks at it.
    pub looks: u64,
    /// Why it did not answer the last one.
    pub error: Option<Arc<str>>,
}

/// The nodes of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Whether writes go out.
    pub writes: Writes,
    /// The highest timeline that has been seen.
    pub timeline: u32,
    /// Moves of the primary.
    pub moves: u64,
    /// Nodes that take writes: more than one is a split brain.
    pub writable: u32,
    /// The nodes, in the order in which they joined.
    pub nodes: Vec<NodeStats>,
}

impl ClusterStats {
    pub(crate) fn of(shared: &Shared) -> Self {
        let (primary, mut stats) = {
            let head = shared.head.lock();
            let stats = Self {
                writes: head.writes,
                timeline: head.timeline,
                moves: head.epoch,
                writable: head.writable,
                nodes: Vec::new(),
            };
            (head.primary, stats)
        };
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for node in shared.nodes.load().iter() {
            let view = node.view.lock().clone();
            stats.nodes.push(NodeStats {
                name: node.name(),
                primary: primary == Some(node.id),
                standing: view.standing,
                position: view.found.map(|found| CausalToken {
                    system: found.system,
                    timeline: found.timeline,
                    lsn: Lsn(found.lsn.0),
                }),
                lag: view.lag,
                lag_bytes: view.lag_bytes,
                latency: node.load.latency(),
                slow: node.load.pace.is_out(),
                outstanding: node.load.outstanding(),
                reads: load(&node.counts.reads),
                in_place: load(&node.counts.in_place),
                faults: load(&node.counts.faults),
                hedges: load(&node.counts.hedges),
                looks: view.looks,
                error: view.error,
            });
        }
        stats
    }
}

/// Where calls went.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) primary: AtomicU64,
    pub(crate) fallbacks: AtomicU64,
    pub(crate) no_replica: AtomicU64,
    pub(crate) too_late: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) rerouted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) would_read: AtomicU64,
}

/// The nodes, and where calls went since the layer was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplicaStats {
    /// The nodes.
    pub cluster: ClusterStats,
    /// Calls that belong on the primary.
    pub primary: u64,
    /// Reads that replicas answered.
    pub replica_reads: u64,
    /// Reads that ran on the primary because no replica could serve them.
    pub fallbacks: u64,
    /// Times that no replica was to be had at all.
    pub no_replica: u64,
    /// Times that no replica had replayed in time what the read had to see.
    pub too_late: u64,
    /// Reads that waited for a replica to replay something.
    pub waits: u64,
    /// Reads that failed on a replica and were sent to another node.
    pub rerouted: u64,
    /// Reads that were refused because the primary's share for them was in use.
    pub refused: u64,
    /// Reads that were sent to a second replica; in observe mode: would have been.
    pub hedges: u64,
    /// Those that the second one answered first.
    pub hedges_won: u64,
    /// In observe mode: reads that could have gone to a replica.
    pub would_read: u64,
}

impl Counters {
    pub(crate) fn stats(&self, cluster: &Cluster) -> ReplicaStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let cluster = cluster.stats();
        ReplicaStats {
            primary: load(&self.primary),
            replica_reads: cluster.nodes.iter().map(|node| node.reads).sum(),
            fallbacks: load(&self.fallbacks),
            no_replica: load(&self.no_replica),
            too_late: load(&self.too_late),
            waits: load(&self.waits),
            rerouted: load(&self.rerouted),
            refused: load(&self.refused),
            hedges: load(&self.hedges),
            hedges_won: load(&self.hedges_won),
            would_read: load(&self.would_read),
            cluster,
        }
    }
}
