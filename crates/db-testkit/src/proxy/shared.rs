//! What the proxy's handle and its tasks share.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{net::TcpListener, sync::watch};

use crate::proxy::{
    counters::Counters,
    cut::{Armed, Cut, Message},
    fault::{Chaos, CutStyle, Direction, Fault, Gate, Lanes, Scope},
    link::Link,
};

/// State that changes together.
#[derive(Debug, Default)]
struct State {
    upstream: Vec<SocketAddr>,
    /// The faults of connections to come.
    new: Lanes,
    chaos: Option<Chaos>,
    links: HashMap<u64, Arc<Link>>,
    armed: Armed,
    last_id: u64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) gate: watch::Sender<Gate>,
    /// `None` while the port is closed.
    pub(crate) listener: watch::Sender<Option<Arc<TcpListener>>>,
    accepted: AtomicU64,
    refused: AtomicU64,
    cuts: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Shared {
    pub(crate) fn new(listener: TcpListener, upstream: Vec<SocketAddr>) -> Self {
        Self {
            state: Mutex::new(State {
                upstream,
                ..State::default()
            }),
            gate: watch::Sender::new(Gate::Open),
            listener: watch::Sender::new(Some(Arc::new(listener))),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn upstream(&self) -> Vec<SocketAddr> {
        self.state().upstream.clone()
    }

    pub(crate) fn set_upstream(&self, upstream: Vec<SocketAddr>) {
        self.state().upstream = upstream;
    }

    /// Puts a new connection on the books, with the faults that new ones have.
    pub(crate) fn register(&self) -> Arc<Link> {
        self.accepted.fetch_add(1, Ordering::AcqRel);
        let mut state = self.state();
        state.last_id += 1;
        let mut lanes = state.new;
        if let Some(chaos) = &mut state.chaos {
            chaos.throw(&mut lanes, (0, 0));
        }
        let link = Arc::new(Link::new(state.last_id, lanes));
        state.links.insert(link.id, Arc::clone(&link));
        link
    }

    pub(crate) fn unregister(&self, id: u64) {
        self.state().links.remove(&id);
    }

    pub(crate) fn inject(&self, fault: Fault, direction: Direction, scope: Scope) {
        let mut state = self.state();
        if scope != Scope::Present {
            state.new.apply(fault, direction, (0, 0));
        }
        if scope != Scope::New {
            for link in state.links.values() {
                link.lanes
                    .send_modify(|lanes| lanes.apply(fault, direction, link.forwarded()));
            }
        }
    }

    pub(crate) fn chaos(&self, seed: u64, mean_bytes: u64) {
        let mut state = self.state();
        let mut chaos = Chaos {
            seed,
            mean_bytes: mean_bytes.max(1),
            thrown: 0,
        };
        let mut links: Vec<_> = state.links.values().cloned().collect();
        // The order of a map would make every run another one.
        links.sort_by_key(|link| link.id);
        for link in links {
            link.lanes.send_modify(|lanes| chaos.throw(lanes, link.forwarded()));
        }
        state.chaos = Some(chaos);
    }

    pub(crate) fn cut_all(&self, style: CutStyle) {
        for link in self.state().links.values() {
            link.lanes.send_modify(|lanes| lanes.cut_now = Some(style));
        }
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.new = Lanes::default();
        state.chaos = None;
        state.armed.clear();
        for link in state.links.values() {
            let torn = link.torn.load(Ordering::Acquire);
            link.lanes.send_modify(|lanes| {
                // A cut that was ordered but has not been seen yet stays.
                let cut_now = lanes.cut_now.or(torn.then_some(CutStyle::Reset));
                *lanes = Lanes {
                    cut_now,
                    ..Lanes::default()
                };
            });
        }
        drop(state);
        self.gate.send_replace(Gate::Open);
    }

    pub(crate) fn arm(&self, cut: Cut) {
        self.state().armed.arm(cut);
    }

    pub(crate) fn armed(&self) -> usize {
        self.state().armed.len()
    }

    pub(crate) fn judge(&self, message: &Message<'_>) -> Option<Cut> {
        self.state().armed.judge(message)
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn count_cut(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn count_bytes(&self, direction: Direction, bytes: u64) {
        let counter = if direction == Direction::ToClient {
            &self.to_client
        } else {
            &self.to_server
        };
        counter.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            accepted: self.accepted.load(Ordering::Acquire),
            open: self.state().links.len() as u64,
            refused: self.refused.load(Ordering::Acquire),
            cuts: self.cuts.load(Ordering::Acquire),
            bytes_to_server: self.to_server.load(Ordering::Acquire),
            bytes_to_client: self.to_client.load(Ordering::Acquire),
        }
    }
}
