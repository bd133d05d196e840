//! The layer.

use crate::{
    cluster::Cluster,
    fallback::{self, Fallback},
    hedge::HedgeBudget,
    member::Member,
    readers::{Connect, Readers},
    routed::Routed,
    routing::Routing,
    stats::Counters,
};
use db_core::{Layer, Result};
use std::{fmt, sync::Arc};

/// Puts a [`Routed`] around the primary's stack.
pub struct ReplicaLayer<S> {
    cluster: Cluster,
    connect: Arc<Connect<S>>,
    primary_connections: u32,
}

impl<S> ReplicaLayer<S> {
    /// A layer that makes the stack for reads on a node by `connect`: the same kind of stack as the primary's.
    /// `primary_connections` is the size of the primary's pool, of which reads that no replica can serve get a share.
    pub fn new(
        cluster: Cluster,
        primary_connections: u32,
        connect: impl Fn(&Member) -> Result<S> + Send + Sync + 'static,
    ) -> Self {
        Self {
            cluster,
            connect: Arc::new(Box::new(connect)),
            primary_connections,
        }
    }
}

impl<S: 'static> Layer<S> for ReplicaLayer<S> {
    type Service = Routed<S>;

    fn layer(&self, writer: S) -> Routed<S> {
        let connect = self.connect.clone();
        let share = self.cluster.config().fallback_share;
        Routed(Arc::new(Routing {
            cluster: self.cluster.clone(),
            writer,
            readers: Readers::new(Box::new(move |member| connect(member))),
            fallback: Fallback::new(fallback::places(self.primary_connections, share)),
            hedges: HedgeBudget::default(),
            counters: Counters::default(),
        }))
    }
}

impl<S> fmt::Debug for ReplicaLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaLayer")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}
