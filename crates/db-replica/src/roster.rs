//! The list of nodes, as they come and go.

use crate::{node::Node, shared::Shared};
use std::sync::{Arc, atomic::Ordering};

impl Shared {
    /// Changes the list of nodes. When the node that writes went to leaves, none go out until it is known where to; where one
    /// node is left, it is the one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Arc<Node>>)) {
        let only = {
            // Under the head's lock, so that changes follow one another.
            let mut head = self.head.lock();
            let before = self.nodes.load_full();
            let mut nodes = Vec::clone(&before);
            change(&mut nodes);
            let known = |node: &Arc<Node>| before.iter().any(|old| old.id == node.id);
            if nodes.is_empty() || (nodes.len() == before.len() && nodes.iter().all(known)) {
                return;
            }
            let primary = before.iter().find(|node| head.primary == Some(node.id));
            let stays = primary.and_then(|old| nodes.iter().find(|node| node.member.name() == old.member.name()));
            let only = match (stays, &*nodes) {
                (Some(node), _) => {
                    head.primary = Some(node.id);
                    None
                }
                // Nobody looks at a node that is alone: it is what it was said to be.
                (None, [only]) => {
                    head.succeed(Some(only.id));
                    Some(only.clone())
                }
                (None, _) => {
                    head.succeed(None);
                    None
                }
            };
            self.open.store(head.writes.allowed(), Ordering::Release);
            self.nodes.store(Arc::new(nodes));
            self.generation.fetch_add(1, Ordering::Release);
            only
        };
        if let Some(node) = only
            && self.config.load().mode.enforces()
        {
            (self.follow)(&node.member);
        }
        self.nudge_all();
        self.tell_progress();
    }
}
