//! Who gets a lease, who waits for one, and who is sent away: the decisions under the pool's lock.

use crate::{
    config::PoolConfig,
    holders::Caller,
    homes::Home,
    lane::Waiter,
    queue::Ticket,
    state::{Ask, State, Told},
};
use db_core::{AcquireError, AcquireFailure, Priority, ShedReason, config::Mode};
use std::time::Duration;
use tokio::time::Instant;

/// What enqueuing came to, other than a place without more ado.
pub(crate) enum Refusal {
    /// No place.
    Refused(Box<AcquireError>),
    /// A place, though it would have been refused if admission were enforced.
    WouldRefuse(AcquireFailure, Ticket),
}

impl State {
    /// Whether a caller may have an idle connection right now. First the case of a service that knows no priorities.
    pub(crate) fn admits(&self, config: &PoolConfig, caller: Caller, home: &Home) -> bool {
        let (busy, queued) = (self.busy(), self.queue.len());
        if busy >= self.limit {
            return false;
        }
        if queued == 0 && caller.tenant.is_none() && self.present.only(caller.priority) {
            return true;
        }
        if !config.admission.enforces() {
            return queued == 0;
        }
        self.room_for(caller.priority)
            // Who waits for a lease of his own tenant's share, or of another database, is not overtaken: he could not have
            // this one.
            && !self
                .queue
                .has(caller.priority, |flow| self.may(flow) && self.homes.is_at(flow, home))
            && (queued == 0 || self.below_ceiling(caller.priority))
            && self.may(caller.flow())
    }

    /// Leases and what else occupies the server for us.
    fn busy(&self) -> u32 {
        self.stats.in_use + self.stats.quarantined + self.stats.lent
    }

    /// Places that nobody occupies.
    pub(crate) fn free(&self) -> u32 {
        self.limit.saturating_sub(self.busy())
    }

    pub(crate) fn room_for(&self, priority: Priority) -> bool {
        self.free() > self.shares.held_back(priority, &self.used, self.present)
    }

    fn below_ceiling(&self, priority: Priority) -> bool {
        self.used[priority.index()] < self.shares.ceilings[priority.index()]
    }

    fn may(&self, flow: u64) -> bool {
        self.tenants.get(&flow).is_none_or(|used| *used < self.tenant_ceiling)
    }

    /// Whose turn it is at a connection of this database, if anybody's.
    pub(crate) fn next(
        &mut self,
        config: &PoolConfig,
        home: &Home,
        now: Instant,
        told: &mut Told,
    ) -> Option<(Ticket, Waiter<Ask>)> {
        if self.queue.len() == 0 || self.busy() >= self.limit {
            return None;
        }
        if config.admission.enforces() {
            self.shed(config, now, told);
        }
        loop {
            let (ticket, waiter) = self.ask(
                config,
                now,
                |homes, flow| homes.is_at(flow, home),
                |queue, turn, forecast| queue.pop(turn, forecast),
            )?;
            // Two ids with one number: whoever it is, he gets no connection of another's database.
            if waiter.payload.home != *home {
                self.send_away(ticket.priority, waiter, ShedReason::Displaced, now, told);
                continue;
            }
            // Most likely it would be cut off half-way, and have cost as much as one that is not.
            let typical = self.forecast.typical(ticket.priority).unwrap_or_default();
            if config.admission.enforces() && waiter.deadline.is_some_and(|deadline| deadline < now + typical) {
                self.send_away(ticket.priority, waiter, ShedReason::Deadline, now, told);
                continue;
            }
            return Some((ticket, waiter));
        }
    }

    /// Sends those away who have waited for too long in a queue that stands.
    fn shed(&mut self, config: &PoolConfig, now: Instant, told: &mut Told) {
        if self.queue.len() == 0 {
            return;
        }
        let mut out = Vec::new();
        let long = self.forecast.wait(self.queue.lengths(), self.limit) > config.shed_target;
        self.queue
            .shed(now, long, config.shed_target, config.shed_interval, &mut out);
        for (priority, waiter) in out {
            self.send_away(priority, waiter, ShedReason::Standing, now, told);
        }
    }

    fn send_away(
        &mut self,
        priority: Priority,
        waiter: Waiter<Ask>,
        reason: ShedReason,
        now: Instant,
        told: &mut Told,
    ) {
        self.stats.shed[reason.index()] += 1;
        self.stats.priorities[priority.index()].shed += 1;
        let waited = now.saturating_duration_since(waiter.since);
        let mut error = self.explain(AcquireFailure::Shed(reason), waited, now);
        error.retry_after = Some(self.forecast_wait(priority));
        told.push((waiter.payload, error));
    }

    /// A place in the queue, unless there is none or it would be of no use.
    pub(crate) fn enqueue(
        &mut self,
        ask: Ask,
        deadline: Option<Instant>,
        config: &PoolConfig,
        now: Instant,
        told: &mut Told,
    ) -> Result<Ticket, Refusal> {
        let enforce = config.admission.enforces();
        let caller = ask.caller;
        let mut would = None;
        if config.admission != Mode::Off {
            let refused = self.refusal(caller.priority, deadline, config, now);
            if let Some((failure, retry_after)) = refused {
                let displaced = enforce && failure == AcquireFailure::QueueFull && {
                    let displaced = self.queue.displace(caller.priority, now);
                    displaced.is_some_and(|(priority, waiter)| {
                        self.send_away(priority, waiter, ShedReason::Displaced, now, told);
                        true
                    })
                };
                if !displaced {
                    match failure {
                        AcquireFailure::Shed(reason) => self.stats.shed[reason.index()] += 1,
                        _ => self.stats.refused += 1,
                    }
                    if enforce {
                        self.stats.priorities[caller.priority.index()].shed += 1;
                        let mut error = self.explain(failure, Duration::ZERO, now);
                        error.retry_after = Some(retry_after);
                        return Err(Refusal::Refused(Box::new(error)));
                    }
                    would = Some(failure);
                }
            }
        }
        if enforce {
            self.shed(config, now, told);
        }
        let (lane, flow) = self.line(config, &ask);
        self.homes.note(flow, &ask.home, &self.queue);
        self.stats.waits += 1;
        self.stats.priorities[caller.priority.index()].waits += 1;
        let ticket = self.queue.push(lane, flow, now, deadline, ask);
        match would {
            Some(failure) => Err(Refusal::WouldRefuse(failure, ticket)),
            None => Ok(ticket),
        }
    }

    /// Why a newcomer has no chance, and when it would have.
    fn refusal(
        &self,
        priority: Priority,
        deadline: Option<Instant>,
        config: &PoolConfig,
        now: Instant,
    ) -> Option<(AcquireFailure, Duration)> {
        let wait = self.forecast_wait(priority);
        if self.queue.len() >= config.max_waiting as usize {
            return Some((AcquireFailure::QueueFull, wait));
        }
        // Before there is a connection, and for as long as none can be opened, nothing is known of the wait.
        self.forecast.typical(priority)?;
        if self.failure.is_some() || self.stats.size == 0 {
            return None;
        }
        let late = deadline.is_some_and(|deadline| {
            let left = deadline.saturating_duration_since(now);
            self.forecast.is_late(priority, wait, left)
        });
        (late || wait > config.acquire_timeout).then_some((AcquireFailure::Shed(ShedReason::Deadline), wait))
    }

    /// How long a newcomer of this priority would wait.
    fn forecast_wait(&self, priority: Priority) -> Duration {
        let held_back = self.shares.held_back(priority, &self.used, self.present);
        self.forecast
            .wait(self.queue.ahead_of(priority), self.limit.saturating_sub(held_back))
    }
}
