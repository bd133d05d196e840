//! One call on a node, counted for as long as it lasts.

use crate::node::Node;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Dropped before it is done, the call was given up.
#[derive(Debug)]
pub(crate) struct Ticket {
    node: Arc<Node>,
    since: Instant,
    decay: Duration,
    done: bool,
}

impl Ticket {
    pub(crate) fn begin(node: &Arc<Node>, decay: Duration) -> Self {
        node.load.begin();
        Self {
            node: node.clone(),
            since: Instant::now(),
            decay,
            done: false,
        }
    }

    /// The call has ended; with a fault of the node's own, its time says nothing about the node's speed.
    pub(crate) fn done(mut self, fault: bool) {
        self.done = true;
        if fault {
            self.node.blame();
        } else {
            let now = Instant::now();
            self.node.counts.reads.fetch_add(1, Ordering::Relaxed);
            self.node.load.measured(now - self.since, now, self.decay);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.node.load.end();
        if !self.done {
            let now = Instant::now();
            self.node.load.given_up(now - self.since, now);
        }
    }
}
