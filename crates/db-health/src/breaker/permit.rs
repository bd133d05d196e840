//! Leave to pass, which always comes back.

use super::{
    handle::Breaker,
    machine::{Role, Ticket},
    outcome::Outcome,
};
use db_core::{BreakerCause, Call, Error};
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// A call that is dropped so long after its deadline was dropped late by our own process, which stood still: that says
/// nothing about the endpoint.
const OWN_FAULT: Duration = Duration::from_secs(1);

/// Leave to pass a breaker. Settle it; dropped, it comes back as what it was: a call that passed its deadline counts as
/// a timeout, and one whose caller left earlier as nothing.
#[must_use = "a permit that is dropped says that its call was abandoned"]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    ticket: Option<Ticket>,
    since: Instant,
    deadline: Option<Instant>,
}

impl<'a> Permit<'a> {
    pub(super) fn plain(breaker: &'a Breaker, generation: u64, call: &Call) -> Self {
        let role = Role::Plain;
        Self::of(breaker, Ticket { generation, role }, Instant::now(), call)
    }

    pub(super) fn of(breaker: &'a Breaker, ticket: Ticket, since: Instant, call: &Call) -> Self {
        Self {
            breaker,
            ticket: Some(ticket),
            since,
            deadline: call.deadline,
        }
    }

    /// Nothing is counted.
    pub(super) fn unseen(breaker: &'a Breaker) -> Self {
        Self {
            breaker,
            ticket: None,
            since: Instant::now(),
            deadline: None,
        }
    }

    /// Whether the state hangs on how the call ends: it is the probe, or on trial.
    pub fn decides(&self) -> bool {
        self.ticket
            .is_some_and(|ticket| matches!(ticket.role, Role::Probe | Role::Trial))
    }

    /// The call has ended: with this error, or well.
    pub fn settle(self, error: Option<&Error>) {
        self.end(error.map_or(Outcome::Answered, Outcome::of));
    }

    /// It says nothing about the endpoint how the call ended.
    pub fn unknown(self) {
        self.end(Outcome::Unknown);
    }

    fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        let Some(ticket) = self.ticket.take() else { return };
        self.breaker.saw(outcome);
        let since = self.since;
        self.breaker.apply(|machine, now| {
            let slow = machine
                .config()
                .slow_call
                .is_some_and(|limit| now.saturating_duration_since(since) > limit);
            machine.end(ticket, outcome, slow, now)
        });
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let late = self
                .deadline
                .and_then(|deadline| Instant::now().checked_duration_since(deadline));
            self.give_back(match late {
                Some(late) if late < OWN_FAULT => Outcome::Failed(BreakerCause::Timeout),
                _ => Outcome::Unknown,
            });
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
