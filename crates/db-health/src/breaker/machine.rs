//! The state machine: plain functions of a state, an event and the time. No lock, no clock, no I/O.

use super::{
    config::BreakerConfig,
    outcome::Outcome,
    window::{Tally, Window},
};
use db_core::{BreakerCause, BreakerOpen, BreakerState, config::Mode};
use std::time::Duration;
use tokio::time::Instant;

/// A caller that is refused while others try the endpoint may ask again after this.
const SOON: Duration = Duration::from_millis(20);
/// The slow start doubles the calls this many times.
const RAMP_STEPS: u32 = 4;

/// Who wants to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Caller,
    /// May be the probe, and is not held back by the slow start.
    Critical,
    Prober,
}

/// As what somebody was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    /// Counted by the slow start.
    Ramped,
    Probe,
    Trial,
}

/// Let through. Given back by [`Machine::end`], always: whatever became of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) generation: u64,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { ramp: Option<Ramp> },
    Open { since: Instant, until: Instant },
    HalfOpen { since: Instant, stage: Stage },
    ForcedOpen,
    Disabled,
}

/// The calls that a breaker that has just closed lets in at once.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    since: Instant,
    out: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// One try, and nobody else.
    Probing,
    /// The probe went well: a few real calls.
    Trial { out: u32, passed: u32 },
}

/// What changed, for those who want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    State {
        from: BreakerState,
        to: BreakerState,
        cause: BreakerCause,
        retry_after: Option<Duration>,
    },
    WouldOpen(BreakerCause),
}

/// What a prober should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, until the breaker opens again.
    Rest,
    /// Ask again at this time, or when the state has changed.
    Wait(Instant),
    /// Try now.
    Probe(Ticket, BreakerCause),
}

pub(crate) struct Machine {
    config: BreakerConfig,
    state: State,
    /// Counts states: what began in an earlier one says nothing about this one.
    generation: u64,
    /// Times that it opened without having stayed closed in between: the wait doubles with each.
    opened: u32,
    cause: BreakerCause,
    window: Window,
    dice: fastrand::Rng,
    /// Without a prober the first caller after the wait is the probe.
    has_prober: bool,
    prober_at_work: bool,
    /// Since when nothing has been let through but probes; a probe that went well ends it.
    down_since: Option<Instant>,
    last_answer: Option<Instant>,
}

impl Machine {
    pub(crate) fn new(config: BreakerConfig, has_prober: bool, seed: u64, now: Instant) -> Self {
        Self {
            window: Window::new(&config, now),
            config,
            state: State::Closed { ramp: None },
            generation: 1,
            opened: 0,
            cause: BreakerCause::Connect,
            dice: fastrand::Rng::with_seed(seed),
            has_prober,
            prober_at_work: false,
            down_since: None,
            last_answer: None,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::ForcedOpen => BreakerState::ForcedOpen,
            State::Disabled => BreakerState::Disabled,
        }
    }

    #[cfg(test)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn config(&self) -> &BreakerConfig {
        &self.config
    }

    pub(crate) fn cause(&self) -> BreakerCause {
        self.cause
    }

    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    pub(crate) fn recent(&mut self, now: Instant) -> Tally {
        self.window.recent(&self.config, now)
    }

    /// The generation in which everybody passes and nothing has to be asked, if this is one.
    pub(crate) fn free(&self) -> Option<u64> {
        let free = matches!(self.state, State::Closed { ramp: None } | State::Disabled);
        (free || self.config.mode.is_off()).then_some(self.generation)
    }

    /// Whether a prober has to be started; the one who asks does it, and says so when it could not.
    pub(crate) fn take_up_probing(&mut self) -> bool {
        let wanted = self.has_prober && !self.prober_at_work;
        let wanted = wanted && matches!(self.state, State::Open { .. } | State::HalfOpen { .. });
        self.prober_at_work |= wanted;
        wanted
    }

    pub(crate) fn prober_gone(&mut self) {
        self.prober_at_work = false;
    }

    pub(crate) fn has_prober(&mut self) {
        self.has_prober = true;
    }

    /// Settings that hold from now on. A breaker that does not enforce any more closes.
    pub(crate) fn reload(&mut self, config: BreakerConfig, now: Instant) -> Option<Change> {
        let kept = config.window_calls == self.config.window_calls && config.window_time == self.config.window_time;
        self.config = config;
        if !kept {
            self.window = Window::new(&self.config, now);
        }
        match self.state {
            State::Open { .. } | State::HalfOpen { .. } if !self.config.mode.enforces() => self.close(now, false),
            _ => None,
        }
    }

    pub(crate) fn force_open(&mut self, now: Instant) -> Option<Change> {
        self.cause = BreakerCause::Forced;
        self.down_since.get_or_insert(now);
        self.enter(State::ForcedOpen, now)
    }

    pub(crate) fn disable(&mut self, now: Instant) -> Option<Change> {
        self.down_since = None;
        self.enter(State::Disabled, now)
    }

    /// Closed, with nothing known.
    pub(crate) fn reset(&mut self, now: Instant) -> Option<Change> {
        self.opened = 0;
        self.close(now, false)
    }

    /// Lets somebody through, or says why not.
    pub(crate) fn admit(&mut self, who: Who, now: Instant) -> (Result<Ticket, BreakerOpen>, Option<Change>) {
        let mut change = self.expire(now);
        let role = match &mut self.state {
            State::Closed { ramp: None } | State::Disabled => Ok(Role::Plain),
            State::Closed { ramp: Some(ramp) } => {
                match ramp_limit(&self.config, now.saturating_duration_since(ramp.since)) {
                    None => {
                        self.state = State::Closed { ramp: None };
                        self.opened = 0;
                        Ok(Role::Plain)
                    }
                    Some(limit) if ramp.out < limit || who == Who::Critical => {
                        ramp.out += 1;
                        Ok(Role::Ramped)
                    }
                    Some(_) => Err(Some(self.config.slow_start / RAMP_STEPS)),
                }
            }
            State::Open { since, until } => {
                let due = match who {
                    Who::Prober => now >= *until,
                    Who::Caller => now >= *until && !self.has_prober,
                    // Not before the shortest wait, however long the wait has grown: the load stays bounded.
                    Who::Critical => now >= (*until).min(*since + self.config.open_wait),
                };
                let left = until.saturating_duration_since(now);
                if due {
                    change = self.enter(
                        State::HalfOpen {
                            since: now,
                            stage: Stage::Probing,
                        },
                        now,
                    );
                    Ok(Role::Probe)
                } else {
                    Err(Some(left.max(SOON)))
                }
            }
            State::HalfOpen {
                stage: Stage::Trial { out, passed },
                ..
            } if who != Who::Prober && *out + *passed < self.config.half_open_calls => {
                *out += 1;
                Ok(Role::Trial)
            }
            State::HalfOpen { .. } => Err(Some(SOON)),
            State::ForcedOpen => Err(None),
        };
        let ticket = role
            .map(|role| Ticket {
                generation: self.generation,
                role,
            })
            .map_err(|retry_after| BreakerOpen::new(self.state(), self.cause, retry_after));
        (ticket, change)
    }

    /// What a prober should do now.
    pub(crate) fn next(&mut self, now: Instant) -> (Next, Option<Change>) {
        let expired = self.expire(now);
        match self.state {
            State::Open { until, .. } if now < until => (Next::Wait(until), expired),
            State::Open { .. } => match self.admit(Who::Prober, now) {
                (Ok(ticket), change) => (Next::Probe(ticket, self.cause), change),
                (Err(_), change) => (Next::Wait(now + SOON), change),
            },
            State::HalfOpen { since, .. } => (Next::Wait(since + self.config.half_open_limit), expired),
            State::Closed { .. } | State::ForcedOpen | State::Disabled => {
                self.prober_at_work = false;
                (Next::Rest, expired)
            }
        }
    }

    /// Somebody who was let through is done.
    pub(crate) fn end(&mut self, ticket: Ticket, outcome: Outcome, slow: bool, now: Instant) -> Option<Change> {
        if outcome == Outcome::Answered {
            self.last_answer = Some(now);
        }
        if ticket.generation != self.generation {
            return None;
        }
        let level = self.opened;
        match (&mut self.state, ticket.role) {
            (State::Closed { ramp }, Role::Plain | Role::Ramped) => {
                if let (Some(ramp), Role::Ramped) = (ramp, ticket.role) {
                    ramp.out -= 1;
                }
                self.count(outcome, slow, now)
            }
            (State::HalfOpen { stage, .. }, Role::Probe) => match outcome {
                Outcome::Answered => {
                    *stage = Stage::Trial { out: 0, passed: 0 };
                    self.down_since = None;
                    None
                }
                Outcome::Failed(cause) => self.open(cause, level + 1, now),
                // The one who tried has left: the next one may, at once.
                Outcome::Unknown => self.open_until(now, now),
            },
            (
                State::HalfOpen {
                    stage: Stage::Trial { out, passed },
                    ..
                },
                Role::Trial,
            ) => {
                *out -= 1;
                match outcome {
                    Outcome::Answered => {
                        *passed += 1;
                        if *passed < self.config.half_open_calls {
                            return None;
                        }
                        self.close(now, true)
                    }
                    Outcome::Failed(cause) => self.open(cause, level + 1, now),
                    Outcome::Unknown => None,
                }
            }
            _ => None,
        }
    }

    /// Counts what somebody saw who needed no ticket: a statement of an open transaction.
    pub(crate) fn note(&mut self, outcome: Outcome, now: Instant) -> Option<Change> {
        if outcome == Outcome::Answered {
            self.last_answer = Some(now);
        }
        match self.state {
            State::Closed { .. } => self.count(outcome, false, now),
            _ => None,
        }
    }

    fn count(&mut self, outcome: Outcome, slow: bool, now: Instant) -> Option<Change> {
        let (failed, cause) = match outcome {
            Outcome::Answered => (false, self.cause),
            Outcome::Failed(cause) => (true, cause),
            Outcome::Unknown => return None,
        };
        let excess = self.window.note(failed, slow, &self.config, now)?;
        let cause = excess.cause(cause);
        match self.config.mode {
            Mode::Enforce => self.open(cause, self.opened, now),
            Mode::Observe => {
                self.window = Window::new(&self.config, now);
                Some(Change::WouldOpen(cause))
            }
            Mode::Off => None,
        }
    }

    /// What has lasted too long ends: half-open, and the slow start.
    fn expire(&mut self, now: Instant) -> Option<Change> {
        match self.state {
            State::HalfOpen { since, stage } if now >= since + self.config.half_open_limit => match stage {
                // Nobody came to try, or they left: the endpoint may be as well as ever, so ask it again at once.
                Stage::Trial { out: 0, .. } => self.open_until(now, now),
                Stage::Trial { .. } | Stage::Probing => self.open(BreakerCause::Timeout, self.opened + 1, now),
            },
            State::Closed { ramp: Some(ramp) }
                if ramp_limit(&self.config, now.saturating_duration_since(ramp.since)).is_none() =>
            {
                self.state = State::Closed { ramp: None };
                self.opened = 0;
                None
            }
            _ => None,
        }
    }

    /// Opens for a random part of a wait that has doubled `level` times.
    fn open(&mut self, cause: BreakerCause, level: u32, now: Instant) -> Option<Change> {
        self.cause = cause;
        self.opened = level;
        self.down_since.get_or_insert(now);
        let wait = self
            .config
            .open_wait
            .saturating_mul(1_u32.checked_shl(level).unwrap_or(u32::MAX))
            .min(self.config.open_wait_cap);
        let wait = wait.mul_f64(self.dice.f64());
        self.open_until(now + wait, now)
    }

    fn open_until(&mut self, until: Instant, now: Instant) -> Option<Change> {
        self.enter(State::Open { since: now, until }, now)
    }

    fn close(&mut self, now: Instant, slowly: bool) -> Option<Change> {
        self.down_since = None;
        self.window = Window::new(&self.config, now);
        let ramp = (slowly && !self.config.slow_start.is_zero()).then_some(Ramp { since: now, out: 0 });
        self.enter(State::Closed { ramp }, now)
    }

    fn enter(&mut self, state: State, now: Instant) -> Option<Change> {
        let from = self.state();
        self.state = state;
        self.generation += 1;
        let retry_after = match state {
            State::Open { until, .. } => Some(until.saturating_duration_since(now)),
            _ => None,
        };
        let to = self.state();
        (from != to).then_some(Change::State {
            from,
            to,
            cause: self.cause,
            retry_after,
        })
    }
}

/// The calls that may run at once so long after closing; `None` when the slow start is over.
fn ramp_limit(config: &BreakerConfig, elapsed: Duration) -> Option<u32> {
    let step = config.slow_start / RAMP_STEPS;
    if step.is_zero() || elapsed >= config.slow_start {
        return None;
    }
    let steps = u32::try_from(elapsed.as_nanos() / step.as_nanos()).unwrap_or(RAMP_STEPS);
    Some(config.slow_start_calls.saturating_mul(1 << steps.min(RAMP_STEPS)))
}
