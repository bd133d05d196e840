//! The inner stack of each node, made when the node joins and dropped when it leaves.

use crate::{member::Member, node::Node, shared::Shared};
use arc_swap::ArcSwap;
use db_core::Result;
use parking_lot::Mutex;
use std::sync::{Arc, atomic::Ordering};

/// Makes the stack for reads on a node.
pub(crate) type Connect<S> = Box<dyn Fn(&Member) -> Result<S> + Send + Sync>;

/// A node and the stack that leads to it.
pub(crate) struct Reader<S> {
    pub(crate) node: Arc<Node>,
    pub(crate) service: S,
}

pub(crate) struct Readers<S> {
    connect: Connect<S>,
    current: ArcSwap<(u64, Vec<Arc<Reader<S>>>)>,
    changing: Mutex<()>,
}

impl<S> Readers<S> {
    pub(crate) fn new(connect: Connect<S>) -> Self {
        Self {
            connect,
            current: ArcSwap::from_pointee((u64::MAX, Vec::new())),
            changing: Mutex::new(()),
        }
    }

    /// The readers of the nodes that there are now.
    pub(crate) fn current(&self, shared: &Shared) -> Arc<(u64, Vec<Arc<Reader<S>>>)> {
        let generation = shared.generation.load(Ordering::Acquire);
        let current = self.current.load_full();
        if current.0 == generation {
            return current;
        }
        let _changing = self.changing.lock();
        let current = self.current.load_full();
        let generation = shared.generation.load(Ordering::Acquire);
        if current.0 == generation {
            return current;
        }
        let nodes = shared.nodes.load_full();
        let readers = nodes.iter().filter_map(|node| {
            if let Some(reader) = current.1.iter().find(|reader| reader.node.id == node.id) {
                return Some(reader.clone());
            }
            match (self.connect)(&node.member) {
                Ok(service) => Some(Arc::new(Reader {
                    node: node.clone(),
                    service,
                })),
                Err(error) => {
                    tracing::error!(node = %node.member.name(), %error, "a node can't be read from");
                    None
                }
            }
        });
        let next = Arc::new((generation, readers.collect()));
        self.current.store(next.clone());
        next
    }
}
