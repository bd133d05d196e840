//! Those of one priority who wait: a queue for each tenant or call site, served in turn by what they have used.
//!
//! Start-time fair queueing: each flow has the time of connections that it has used, counted from the moment it joined;
//! the one that has used least is next. An estimate is charged when a flow is served, the difference when the lease
//! comes back, so one report of 2 s weighs as much as two hundred look-ups of 10 ms.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Flows that are remembered beside those that wait: the ones that have used more than their share so far.
const REMEMBERED: usize = 1024;

/// One who waits.
#[derive(Debug)]
pub(crate) struct Waiter<T> {
    pub(crate) id: u64,
    pub(crate) since: Instant,
    /// When it stops waiting, as far as it said.
    pub(crate) deadline: Option<Instant>,
    pub(crate) payload: T,
}

/// Which end of a flow is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Who came first.
    Oldest,
    /// Who came last: in an overload the others have most likely given up.
    Newest,
}

struct Flow<T> {
    waiters: VecDeque<Waiter<T>>,
    /// Virtual time, in nanoseconds of connections.
    used: u64,
    /// Its place among those that have used as much.
    turn: u64,
}

/// The waiters of one priority.
pub(crate) struct Lane<T> {
    flows: HashMap<u64, Flow<T>, foldhash::fast::FixedState>,
    /// The flows that have waiters, as (used, turn, key): the next one last.
    active: Vec<(u64, u64, u64)>,
    /// What the flow that was served last had used: those who join start here.
    clock: u64,
    turns: u64,
    len: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::default(),
            active: Vec::new(),
            clock: 0,
            turns: 0,
            len: 0,
        }
    }
}

impl<T> Lane<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, flow: u64, waiter: Waiter<T>) {
        if self.flows.len() >= self.active.len() + REMEMBERED {
            self.forget();
        }
        let (clock, turns) = (self.clock, &mut self.turns);
        let entry = self.flows.entry(flow).or_insert_with(|| Flow {
            waiters: VecDeque::new(),
            used: clock,
            turn: 0,
        });
        if entry.waiters.is_empty() {
            *turns += 1;
            entry.used = entry.used.max(clock);
            entry.turn = *turns;
            insert(&mut self.active, (entry.used, entry.turn, flow));
        }
        entry.waiters.push_back(waiter);
        self.len += 1;
    }

    /// The next waiter of the flow that has used least among those that `may` be served. It is charged `cost`.
    pub(crate) fn pop(&mut self, order: Order, cost: Duration, may: impl Fn(u64) -> bool) -> Option<(u64, Waiter<T>)> {
        let at = self.active.iter().rposition(|&(_, _, key)| may(key))?;
        let (used, _, key) = self.active[at];
        self.active.remove(at);
        let flow = self.flows.get_mut(&key)?;
        let waiter = match order {
            Order::Oldest => flow.waiters.pop_front(),
            Order::Newest => flow.waiters.pop_back(),
        }?;
        self.len -= 1;
        self.clock = self.clock.max(used);
        // At least 1 ns, so that flows take turns before anything is known about them.
        flow.used = used.saturating_add(nanos(cost).max(1));
        if !flow.waiters.is_empty() {
            self.turns += 1;
            flow.turn = self.turns;
            insert(&mut self.active, (flow.used, flow.turn, key));
        }
        Some((key, waiter))
    }

    /// Whether anybody may be served.
    pub(crate) fn has(&self, may: impl Fn(u64) -> bool) -> bool {
        self.first(may).is_some()
    }

    /// The flow that is next of those that `may` be served.
    pub(crate) fn first(&self, may: impl Fn(u64) -> bool) -> Option<u64> {
        let mut keys = self.active.iter().rev().map(|(_, _, key)| *key);
        keys.find(|key| may(*key))
    }

    /// The flows that have waiters, the next one first, with the number of these.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (u64, usize)> {
        let waiting = |key: &u64| self.flows.get(key).map_or(0, |flow| flow.waiters.len());
        self.active.iter().rev().map(move |(_, _, key)| (*key, waiting(key)))
    }

    /// Takes out all who wait in the flows that are `meant`.
    pub(crate) fn take_flows(&mut self, meant: impl Fn(u64) -> bool, out: &mut Vec<Waiter<T>>) {
        let keys: Vec<u64> = self.flows().map(|(key, _)| key).filter(|key| meant(*key)).collect();
        for key in keys {
            if let Some(flow) = self.flows.get_mut(&key) {
                self.len -= flow.waiters.len();
                out.extend(flow.waiters.drain(..));
            }
            self.settle(key);
        }
    }

    /// A waiter gave up. Numbers ascend within a flow, so finding it is quick.
    pub(crate) fn leave(&mut self, flow: u64, id: u64) -> Option<Waiter<T>> {
        let entry = self.flows.get_mut(&flow)?;
        let at = entry.waiters.binary_search_by_key(&id, |waiter| waiter.id).ok()?;
        let waiter = entry.waiters.remove(at);
        self.len -= 1;
        self.settle(flow);
        waiter
    }

    /// A lease that the flow had came back: it has used `held`, of which `charged` is on its account already.
    pub(crate) fn charge(&mut self, flow: u64, held: Duration, charged: Duration) {
        if self.len == 0 {
            return;
        }
        let clock = self.clock;
        let entry = self.flows.entry(flow).or_insert_with(|| Flow {
            waiters: VecDeque::new(),
            used: clock,
            turn: 0,
        });
        let before = (entry.used, entry.turn, flow);
        entry.used = (entry.used.max(clock).saturating_add(nanos(held)))
            .saturating_sub(nanos(charged))
            .max(clock);
        if !entry.waiters.is_empty() && entry.used != before.0 {
            let after = (entry.used, entry.turn, flow);
            self.active.retain(|place| *place != before);
            insert(&mut self.active, after);
        }
    }

    /// The longest anybody has waited.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let fronts = self.active.iter().filter_map(|(_, _, key)| self.flows.get(key));
        fronts.filter_map(|flow| Some(flow.waiters.front()?.since)).min()
    }

    /// The waiter that came last, of the flow that would be served last.
    pub(crate) fn pop_last(&mut self) -> Option<Waiter<T>> {
        let &(_, _, key) = self.active.first()?;
        let waiter = self.flows.get_mut(&key)?.waiters.pop_back();
        self.len -= usize::from(waiter.is_some());
        self.settle(key);
        waiter
    }

    /// Takes out those who came before `limit`.
    pub(crate) fn take_older(&mut self, limit: Instant, out: &mut Vec<Waiter<T>>) {
        let keys: Vec<u64> = self.active.iter().map(|(_, _, key)| *key).collect();
        for key in keys {
            if let Some(flow) = self.flows.get_mut(&key) {
                while flow.waiters.front().is_some_and(|waiter| waiter.since < limit) {
                    out.extend(flow.waiters.pop_front());
                    self.len -= 1;
                }
            }
            self.settle(key);
        }
    }

    pub(crate) fn drain(&mut self) -> Vec<Waiter<T>> {
        let mut all: Vec<_> = self.flows.drain().flat_map(|(_, flow)| flow.waiters).collect();
        all.sort_by_key(|waiter| waiter.id);
        *self = Self::default();
        all
    }

    /// A flow without waiters is not active.
    fn settle(&mut self, flow: u64) {
        if let Some(entry) = self.flows.get(&flow)
            && entry.waiters.is_empty()
        {
            let place = (entry.used, entry.turn, flow);
            self.active.retain(|other| *other != place);
        }
    }

    /// A flow that is not over its share starts at the clock anyway: nothing is lost with it. Those over it are let off
    /// when there are too many.
    fn forget(&mut self) {
        let clock = self.clock;
        self.flows
            .retain(|_, flow| !flow.waiters.is_empty() || flow.used > clock);
        if self.flows.len() >= self.active.len() + REMEMBERED {
            self.flows.retain(|_, flow| !flow.waiters.is_empty());
        }
    }
}

fn insert(active: &mut Vec<(u64, u64, u64)>, place: (u64, u64, u64)) {
    let at = active.partition_point(|other| *other > place);
    active.insert(at, place);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
