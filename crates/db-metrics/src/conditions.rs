//! What is the case at this moment, as far as events tell: states rather than counts.

use crate::registry::Id;
use db_core::{BreakerState, Event};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Nodes that are remembered.
const NODES: usize = 100;

/// The states of a breaker that are reported, the first one at the start.
const BREAKER: [&str; 3] = ["closed", "open", "half_open"];

pub(crate) struct Conditions(Mutex<State>);

struct State {
    /// Whether the last attempt to reach the server succeeded.
    reachable: bool,
    breaker: &'static str,
    /// Whether a replica gets reads.
    serves: BTreeMap<Arc<str>, bool>,
    /// Servers that take writes.
    writable: u32,
}

/// A gauge with its labels.
pub(crate) type Gauge = (Id, Vec<String>, f64);

impl Conditions {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            reachable: true,
            breaker: BREAKER[0],
            serves: BTreeMap::new(),
            writable: 1,
        }))
    }

    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Connected { .. } => self.0.lock().reachable = true,
            Event::ConnectFailed { .. } => self.0.lock().reachable = false,
            Event::Probed { ok, .. } => self.0.lock().reachable = *ok,
            Event::BreakerChanged { to, .. } => self.0.lock().breaker = breaker(*to),
            Event::NodeServes { node } => self.serves(node, true),
            Event::NodeBanned { node, .. } => self.serves(node, false),
            // Also how a split brain ends, and how a primary that was lost comes back.
            Event::WritableNodes { nodes } | Event::SplitBrain { nodes, .. } => self.0.lock().writable = *nodes,
            Event::PrimaryMoved { .. } => self.0.lock().writable = 1,
            Event::PrimaryLost { .. } => self.0.lock().writable = 0,
            _ => {}
        }
    }

    fn serves(&self, node: &Arc<str>, serves: bool) {
        let mut state = self.0.lock();
        if state.serves.len() < NODES || state.serves.contains_key(node) {
            state.serves.insert(node.clone(), serves);
        }
    }

    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        let truth = |is: bool| f64::from(u8::from(is));
        let state = self.0.lock();
        let breaker = BREAKER.map(|name| (Id::BreakerState, vec![name.to_owned()], truth(name == state.breaker)));
        let nodes = state
            .serves
            .iter()
            .map(|(node, serves)| (Id::ReplicaUp, vec![node.to_string()], truth(*serves)));
        [
            (Id::Health, vec!["connectivity".to_owned()], truth(state.reachable)),
            (Id::WritableNodes, Vec::new(), f64::from(state.writable)),
        ]
        .into_iter()
        .chain(breaker)
        .chain(nodes)
        .collect()
    }
}

/// By what it means for callers: a breaker that is held open is open, one that is switched off lets calls pass.
pub(crate) fn breaker(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Open | BreakerState::ForcedOpen => BREAKER[1],
        BreakerState::HalfOpen => BREAKER[2],
        _ => BREAKER[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::AcquireFailure;
    use std::time::Duration;

    #[test]
    fn reachability_follows_the_last_attempt_to_connect() {
        let conditions = Conditions::new();
        let reachable = || {
            conditions
                .gauges()
                .iter()
                .any(|(id, _, value)| *id == Id::Health && *value > 0.0)
        };
        assert!(reachable());
        conditions.event(&Event::ConnectFailed {
            failure: AcquireFailure::Down,
            message: "refused".into(),
            retry_in: None,
        });
        assert!(!reachable());
        conditions.event(&Event::Connected {
            took: Duration::from_millis(1),
        });
        assert!(reachable());
    }
}
