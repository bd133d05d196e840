//! Those who wait for a lease: who is next, who has no chance, who has to go.
//!
//! Plain decisions over given instants: no clock, no lock, no I/O in here.

use crate::{
    forecast::Forecast,
    lane::{Lane, Order, Waiter},
    standing::Standing,
};
use db_core::Priority;
use std::time::Duration;
use tokio::time::Instant;

/// How long each priority may wait in a queue that stands, as a multiple of the target: the least urgent goes first.
const PATIENCE: [f64; 4] = [4.0, 2.0, 1.0, 0.5];
/// A queue is looked through at most once in so long.
const LOOK: Duration = Duration::from_millis(5);
/// In a queue that stands every so many turns are its oldest's, who would otherwise wait in vain for as long as it
/// stands: 6 % of the goodput at most.
const TURNS_OF_THE_OLDEST: u64 = 16;
/// Who leaves sooner has not lost patience: callers are dropped for many reasons.
const PATIENT: Duration = Duration::from_millis(10);

/// Where a waiter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) priority: Priority,
    pub(crate) flow: u64,
}

/// What is asked of the queue at a free place.
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    /// Whether there is a free place for this priority at all, floors of the others apart.
    pub(crate) room: &'a dyn Fn(Priority) -> bool,
    /// The same for one that has waited for too long.
    pub(crate) room_if_starving: &'a dyn Fn(Priority) -> bool,
    /// Whether this priority is below its ceiling.
    pub(crate) below_ceiling: &'a dyn Fn(Priority) -> bool,
    /// Whether this flow may have another lease.
    pub(crate) may: &'a dyn Fn(u64) -> bool,
    pub(crate) ageing: Duration,
}

pub(crate) struct Queue<T> {
    lanes: [Lane<T>; 4],
    /// When each priority was last served while it waited, or began to wait.
    served: [Instant; 4],
    standing: Standing,
    looked: Instant,
    len: usize,
    next: u64,
    turns: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lanes: Default::default(),
            served: [now; 4],
            standing: Standing::new(now),
            looked: now,
            len: 0,
            next: 0,
            turns: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn waiting(&self, priority: Priority) -> usize {
        self.lanes[priority.index()].len()
    }

    /// Whether anybody of this priority waits who `may` be served.
    pub(crate) fn has(&self, priority: Priority, may: impl Fn(u64) -> bool) -> bool {
        let lane = &self.lanes[priority.index()];
        lane.len() > 0 && lane.has(may)
    }

    /// Whether the queue stands, as it was last judged.
    pub(crate) fn stands(&self) -> bool {
        self.standing.stands()
    }

    /// Those who wait, by priority.
    pub(crate) fn lengths(&self) -> [usize; 4] {
        Priority::ALL.map(|priority| self.waiting(priority))
    }

    /// Those before whom a newcomer would not be served, by priority.
    pub(crate) fn ahead_of(&self, priority: Priority) -> [usize; 4] {
        let mut ahead = [0; 4];
        for other in Priority::ALL {
            // In a queue that stands the youngest of a priority is its first.
            if other < priority || (other == priority && !self.standing.stands()) {
                ahead[other.index()] = self.waiting(other);
            }
        }
        // And itself, or rather the lease that comes free for it.
        ahead[priority.index()] += 1;
        ahead
    }

    /// Appends a waiter.
    pub(crate) fn push(
        &mut self,
        priority: Priority,
        flow: u64,
        now: Instant,
        deadline: Option<Instant>,
        payload: T,
    ) -> Ticket {
        let id = self.next;
        self.next += 1;
        if self.len == 0 {
            self.standing.emptied(now);
        }
        let lane = &mut self.lanes[priority.index()];
        if lane.len() == 0 {
            self.served[priority.index()] = now;
        }
        lane.push(
            flow,
            Waiter {
                id,
                since: now,
                deadline,
                payload,
            },
        );
        self.len += 1;
        Ticket { id, priority, flow }
    }

    /// The next one to be served: the most urgent below its ceiling, else the most urgent; before them one that is
    /// starving.
    pub(crate) fn pop(&mut self, turn: &Turn<'_>, forecast: &Forecast) -> Option<(Ticket, Waiter<T>)> {
        let priority = self.choose(turn)?;
        self.turns += 1;
        let order = if self.standing.stands() && !self.turns.is_multiple_of(TURNS_OF_THE_OLDEST) {
            Order::Newest
        } else {
            Order::Oldest
        };
        let lane = &mut self.lanes[priority.index()];
        let (flow, waiter) = lane.pop(order, forecast.mean(priority), turn.may)?;
        self.served[priority.index()] = turn.now;
        self.standing.served();
        self.took(turn.now);
        let ticket = Ticket {
            id: waiter.id,
            priority,
            flow,
        };
        Some((ticket, waiter))
    }

    /// The flow whose turn it is.
    pub(crate) fn peek(&self, turn: &Turn<'_>) -> Option<u64> {
        self.lanes[self.choose(turn)?.index()].first(turn.may)
    }

    /// The flows that wait, the most urgent first, with the number of their waiters.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (Priority, u64, usize)> {
        Priority::ALL.into_iter().flat_map(|priority| {
            let lane = &self.lanes[priority.index()];
            lane.flows().map(move |(flow, waiting)| (priority, flow, waiting))
        })
    }

    /// Takes out all who wait in the flows that are `meant`.
    pub(crate) fn take_flows(&mut self, meant: impl Fn(u64) -> bool, now: Instant) -> Vec<Waiter<T>> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            lane.take_flows(&meant, &mut taken);
        }
        for _ in &taken {
            self.took(now);
        }
        taken
    }

    fn choose(&self, turn: &Turn<'_>) -> Option<Priority> {
        let there = |priority: Priority| self.has(priority, turn.may);
        let waits = |priority: Priority| (turn.room)(priority) && there(priority);
        let starving = Priority::ALL.into_iter().filter(|priority| {
            turn.now.saturating_duration_since(self.served[priority.index()]) >= turn.ageing
                && (turn.room_if_starving)(*priority)
                && there(*priority)
        });
        starving
            .min_by_key(|priority| self.served[priority.index()])
            .or_else(|| {
                let mut waiting = Priority::ALL.into_iter().filter(|priority| waits(*priority));
                let first = waiting.next()?;
                // It borrows beyond its ceiling only what nobody else below theirs wants.
                let below = |priority: &Priority| (turn.below_ceiling)(*priority);
                std::iter::once(first).chain(waiting).find(below).or(Some(first))
            })
    }

    /// A waiter gave up, or had been served already.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Instant) -> Option<Waiter<T>> {
        let waiter = self.lanes[ticket.priority.index()].leave(ticket.flow, ticket.id)?;
        if now.saturating_duration_since(waiter.since) >= PATIENT {
            self.standing.left();
        }
        self.took(now);
        Some(waiter)
    }

    /// A lease came back.
    pub(crate) fn charge(&mut self, priority: Priority, flow: u64, held: Duration, charged: Duration) {
        self.lanes[priority.index()].charge(flow, held, charged);
    }

    /// The waiter who must make room for a newcomer: the last of the least urgent below it.
    pub(crate) fn displace(&mut self, newcomer: Priority, now: Instant) -> Option<(Priority, Waiter<T>)> {
        let priority = Priority::ALL
            .into_iter()
            .rev()
            .take_while(|priority| *priority > newcomer)
            .find(|priority| self.waiting(*priority) > 0)?;
        let waiter = self.lanes[priority.index()].pop_last()?;
        self.took(now);
        Some((priority, waiter))
    }

    /// Judges whether the queue stands; if it does, and is too `long` for those who come, takes out those who have waited
    /// for longer than their priority may.
    pub(crate) fn shed(
        &mut self,
        now: Instant,
        long: bool,
        target: Duration,
        interval: Duration,
        out: &mut Vec<(Priority, Waiter<T>)>,
    ) {
        if self.len == 0 || now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let Some(oldest) = self.lanes.iter().filter_map(Lane::oldest).min() else {
            return;
        };
        if !self.standing.judge(now, oldest, long, target, interval) || !long {
            return;
        }
        let mut taken = Vec::new();
        for priority in Priority::ALL.into_iter().rev() {
            let patience = target.mul_f64(PATIENCE[priority.index()]);
            if let Some(limit) = now.checked_sub(patience) {
                self.lanes[priority.index()].take_older(limit, &mut taken);
            }
            for waiter in taken.drain(..) {
                self.took(now);
                out.push((priority, waiter));
            }
        }
    }

    pub(crate) fn drain(&mut self) -> Vec<Waiter<T>> {
        self.len = 0;
        self.lanes.iter_mut().flat_map(Lane::drain).collect()
    }

    fn took(&mut self, now: Instant) {
        self.len -= 1;
        if self.len == 0 {
            self.standing.emptied(now);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
