//! The breaker's figures.

use super::machine::Machine;
use db_core::{BreakerCause, BreakerState};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// A snapshot of one breaker. Counters run since it was made.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct BreakerStats {
    /// Its state.
    pub state: BreakerState,
    /// Why it opened the last time; `None` if it never did.
    pub cause: Option<BreakerCause>,
    /// How long nothing but probes has been let through; `None` when calls pass.
    pub down_for: Option<Duration>,
    /// How long ago the endpoint answered, on any call or probe; `None` if it never has.
    pub last_answer: Option<Duration>,
    /// Calls counted in the time window.
    pub recent_calls: u64,
    /// Of these, failed.
    pub recent_failed: u64,
    /// Of these, slow.
    pub recent_slow: u64,
    /// Times it opened, those after a failed probe included.
    pub opened: u64,
    /// Times it closed.
    pub closed: u64,
    /// In observe mode, times it would have opened.
    pub would_have_opened: u64,
    /// Calls refused.
    pub refused: u64,
    /// Probes made by its own prober.
    pub probes: u64,
    /// Of these, failed.
    pub probes_failed: u64,
    /// Failures that counted, by [`BreakerCause::index`].
    pub failures: [u64; BreakerCause::ALL.len()],
}

impl BreakerStats {
    pub(super) fn of(machine: &mut Machine, counters: &Counters, now: Instant) -> Self {
        let recent = machine.recent(now);
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let opened = load(&counters.opened);
        let forced = machine.state() == BreakerState::ForcedOpen;
        Self {
            state: machine.state(),
            cause: (opened > 0 || forced).then(|| machine.cause()),
            down_for: since(machine.down_since()),
            last_answer: since(machine.last_answer()),
            recent_calls: recent.calls,
            recent_failed: recent.failed,
            recent_slow: recent.slow,
            opened,
            closed: load(&counters.closed),
            would_have_opened: load(&counters.would_have_opened),
            refused: load(&counters.refused),
            probes: load(&counters.probes),
            probes_failed: load(&counters.probes_failed),
            failures: std::array::from_fn(|cause| load(&counters.failures[cause])),
        }
    }

    /// Failures for one cause.
    pub fn failures_for(&self, cause: BreakerCause) -> u64 {
        self.failures[cause.index()]
    }
}

#[derive(Default)]
pub(super) struct Counters {
    opened: AtomicU64,
    closed: AtomicU64,
    would_have_opened: AtomicU64,
    refused: AtomicU64,
    probes: AtomicU64,
    probes_failed: AtomicU64,
    failures: [AtomicU64; BreakerCause::ALL.len()],
}

impl Counters {
    pub(super) fn entered(&self, state: BreakerState) {
        match state {
            BreakerState::Open => add(&self.opened),
            BreakerState::Closed => add(&self.closed),
            _ => {}
        }
    }

    pub(super) fn would_open(&self) {
        add(&self.would_have_opened);
    }

    pub(super) fn refused(&self) {
        add(&self.refused);
    }

    pub(super) fn probed(&self, ok: bool) {
        add(&self.probes);
        if !ok {
            add(&self.probes_failed);
        }
    }

    pub(super) fn failed(&self, cause: BreakerCause) {
        add(&self.failures[cause.index()]);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
