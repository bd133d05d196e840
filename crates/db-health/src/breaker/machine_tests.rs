//! The machine against a model that is too simple to be wrong, and its invariants under any order of events.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::{
    config::BreakerConfig,
    machine::{Machine, Next, Role, Ticket, Who},
    outcome::Outcome,
};
use db_core::{BreakerCause, BreakerState};
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::Instant;

const FAILED: Outcome = Outcome::Failed(BreakerCause::Timeout);

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Admit(bool),
    /// The n-th of those who are out ends.
    End(usize, Outcome),
    Wait(u64),
    Prober,
    ForceOpen,
    Reset,
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Answered),
        3 => Just(FAILED),
        2 => Just(Outcome::Unknown),
    ]
}

fn steps(prober: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any::<bool>().prop_map(Step::Admit),
        8 => (any::<usize>(), outcomes()).prop_map(|(n, outcome)| Step::End(n, outcome)),
        4 => (0_u64..400).prop_map(Step::Wait),
        if prober { 4 } else { 1 } => Just(Step::Prober),
        1 => Just(Step::ForceOpen),
        1 => Just(Step::Reset),
    ];
    proptest::collection::vec(step, 1..400)
}

fn config() -> BreakerConfig {
    BreakerConfig {
        minimum_calls: 3,
        window_calls: 6,
        window_time: Duration::from_secs(2),
        half_open_calls: 2,
        half_open_limit: Duration::from_secs(1),
        slow_start_calls: 2,
        ..BreakerConfig::default()
    }
}

/// What must be true, written down from outside: every call in its order, and every state as it was seen.
struct Model {
    config: BreakerConfig,
    /// Counted calls since the breaker closed: when, and whether they failed.
    seen: Vec<(Instant, bool)>,
    /// Trials that are out, and those that passed, since half-open began.
    trials: u32,
    passed: u32,
    probe: bool,
    generation: u64,
    /// Since when the breaker is half-open.
    half_open: Option<Instant>,
}

impl Model {
    fn moved(&mut self, machine: &Machine, now: Instant, before: (BreakerState, u64)) {
        let state = machine.state();
        if self.generation != machine.generation() {
            self.generation = machine.generation();
            if state == BreakerState::Closed && before.0 == BreakerState::HalfOpen {
                assert!(
                    self.passed >= self.config.half_open_calls,
                    "closed after {} successes",
                    self.passed
                );
            }
            self.seen.clear();
            (self.trials, self.passed, self.probe) = (0, 0, false);
            self.half_open = (state == BreakerState::HalfOpen).then_some(now);
        }
    }

    /// Whether the calls that were seen are too many failures, counted anew each time.
    fn too_much(&self, now: Instant) -> bool {
        let enough = |calls: &[(Instant, bool)]| {
            let failed = calls.iter().filter(|(_, failed)| *failed).count();
            calls.len() >= self.config.minimum_calls as usize
                && failed as f64 >= self.config.failure_rate * calls.len() as f64
        };
        let last = &self.seen[self.seen.len().saturating_sub(self.config.window_calls as usize)..];
        // Buckets forget up to a tenth of the window early: whatever the shorter and the longer one agree on.
        let since = |share: f64| {
            let from = self
                .seen
                .partition_point(|(at, _)| now.duration_since(*at) >= self.config.window_time.mul_f64(share));
            &self.seen[from..]
        };
        enough(last) || (enough(since(0.9)) && enough(since(1.0)))
    }
}

/// Runs the steps and checks each.
fn play(steps: Vec<Step>, prober: bool, seed: u64) {
    let config = config();
    let mut now = Instant::now();
    let mut machine = Machine::new(config.clone(), prober, seed, now);
    let mut model = Model {
        config: config.clone(),
        seen: Vec::new(),
        trials: 0,
        passed: 0,
        probe: false,
        generation: machine.generation(),
        half_open: None,
    };
    let mut out: Vec<Ticket> = Vec::new();
    for step in steps {
        let before = (machine.state(), machine.generation());
        match step {
            Step::Wait(ms) => now += Duration::from_millis(ms),
            Step::ForceOpen => {
                machine.force_open(now);
                assert_eq!(machine.state(), BreakerState::ForcedOpen);
            }
            Step::Reset => {
                machine.reset(now);
                assert_eq!(machine.state(), BreakerState::Closed);
                // By hand it closes as it is.
                model.passed = config.half_open_calls;
            }
            Step::Prober => {
                let (next, _) = machine.next(now);
                model.moved(&machine, now, before);
                if let Next::Probe(ticket, _) = next {
                    assert!(!std::mem::replace(&mut model.probe, true), "two probes");
                    out.push(ticket);
                }
            }
            Step::Admit(critical) => {
                let who = if critical { Who::Critical } else { Who::Caller };
                let (admitted, _) = machine.admit(who, now);
                model.moved(&machine, now, before);
                match (admitted, machine.state()) {
                    (Ok(ticket), state) => {
                        match ticket.role {
                            Role::Probe => {
                                assert!(!std::mem::replace(&mut model.probe, true), "two probes");
                                assert!(critical || !prober, "a caller is not the prober");
                            }
                            Role::Trial => {
                                model.trials += 1;
                                assert!(model.trials + model.passed <= config.half_open_calls, "too many trials");
                            }
                            Role::Plain | Role::Ramped => assert_eq!(state, BreakerState::Closed),
                        }
                        out.push(ticket);
                    }
                    (Err(open), state) => {
                        assert_eq!(open.state, state);
                        assert_eq!(open.retry_after.is_none(), state == BreakerState::ForcedOpen);
                    }
                }
            }
            Step::End(n, outcome) if !out.is_empty() => {
                let at = n % out.len();
                let ticket = out.swap_remove(at);
                let current = ticket.generation == machine.generation();
                let state = machine.state();
                machine.end(ticket, outcome, false, now);
                let opened = machine.generation() != ticket.generation && machine.state() == BreakerState::Open;
                if !current {
                    assert_eq!((machine.state(), machine.generation()), before, "a stale call moved it");
                } else {
                    match ticket.role {
                        Role::Plain | Role::Ramped if state == BreakerState::Closed => {
                            if outcome != Outcome::Unknown {
                                model.seen.push((now, outcome == FAILED));
                                let expected = outcome == FAILED && model.too_much(now);
                                // At the edge of a bucket either answer is right.
                                if expected {
                                    assert!(opened, "it should have opened");
                                }
                            }
                        }
                        Role::Trial => {
                            model.trials -= 1;
                            model.passed += u32::from(outcome == Outcome::Answered);
                            assert_eq!(opened, outcome == FAILED, "a failed trial opens, nothing else does");
                        }
                        Role::Probe => assert_eq!(opened, outcome != Outcome::Answered),
                        Role::Plain | Role::Ramped => {}
                    }
                }
            }
            Step::End(..) => {}
        }
        model.moved(&machine, now, before);
        if model
            .half_open
            .is_some_and(|since| now >= since + config.half_open_limit)
        {
            let before = (machine.state(), machine.generation());
            let _ = machine
                .admit(Who::Caller, now)
                .0
                .map(|ticket| machine.end(ticket, Outcome::Unknown, false, now));
            assert_ne!(machine.generation(), before.1, "it outstays its limit");
            model.moved(&machine, now, before);
        }
    }
    // Never stuck: whoever is still out never comes back, and yet the endpoint gets its calls.
    if machine.state() == BreakerState::ForcedOpen {
        machine.reset(now);
    }
    for _ in 0..100 {
        now += Duration::from_millis(600);
        if let (Next::Probe(ticket, _), _) = machine.next(now) {
            machine.end(ticket, Outcome::Answered, false, now);
        }
        while let (Ok(ticket), _) = machine.admit(Who::Caller, now) {
            machine.end(ticket, Outcome::Answered, false, now);
            if machine.state() == BreakerState::Closed {
                break;
            }
        }
        if machine.state() == BreakerState::Closed && machine.free().is_some() {
            return;
        }
    }
    panic!("stuck in {:?}", machine.state());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_a_prober(steps in steps(true), seed: u64) {
        play(steps, true, seed);
    }

    #[test]
    fn without_a_prober(steps in steps(false), seed: u64) {
        play(steps, false, seed);
    }
}

/// A breaker that is open.
fn opened(prober: bool) -> (Machine, Instant) {
    let now = Instant::now();
    let mut machine = Machine::new(config(), prober, 7, now);
    for _ in 0..3 {
        let ticket = machine.admit(Who::Caller, now).0.unwrap();
        machine.end(ticket, FAILED, false, now);
    }
    assert_eq!(machine.state(), BreakerState::Open);
    (machine, now)
}

#[test]
fn the_wait_doubles_up_to_the_cap_and_is_spread_over_all_of_it() {
    let (mut machine, mut now) = opened(true);
    let config = config();
    let mut longest = Duration::ZERO;
    for level in 1..200_u32 {
        let (Next::Wait(until), _) = machine.next(now) else {
            now += Duration::from_millis(1);
            continue;
        };
        let cap = (config.open_wait * (1 << level.min(8))).min(config.open_wait_cap);
        let wait = until - now;
        assert!(wait <= cap, "{wait:?} at {level}");
        longest = longest.max(wait);
        now = until;
        let (Next::Probe(ticket, cause), _) = machine.next(now) else {
            panic!("due")
        };
        assert_eq!(cause, BreakerCause::Timeout);
        machine.end(ticket, FAILED, false, now);
    }
    assert!(longest > config.open_wait_cap.mul_f64(0.8), "{longest:?}");
}

#[test]
fn a_critical_call_may_be_the_probe_and_only_one_at_a_time() {
    let (mut machine, now) = opened(true);
    let later = now + config().open_wait;
    assert!(machine.admit(Who::Caller, later).0.is_err(), "that is the prober's");
    let ticket = machine.admit(Who::Critical, later).0.unwrap();
    assert_eq!(ticket.role, Role::Probe);
    assert!(machine.admit(Who::Critical, later).0.is_err());
    assert!(
        matches!(machine.next(later).0, Next::Wait(_)),
        "the prober waits for it"
    );
    machine.end(ticket, Outcome::Answered, false, later);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    assert_eq!(machine.admit(Who::Caller, later).0.unwrap().role, Role::Trial);
}

#[test]
fn calls_come_back_step_by_step() {
    let (mut machine, now) = opened(false);
    let mut now = now + config().open_wait_cap;
    let probe = machine.admit(Who::Caller, now).0.unwrap();
    machine.end(probe, Outcome::Answered, false, now);
    for _ in 0..config().half_open_calls {
        let trial = machine.admit(Who::Caller, now).0.unwrap();
        machine.end(trial, Outcome::Answered, false, now);
    }
    assert_eq!(machine.state(), BreakerState::Closed);
    for wanted in [2, 4, 8, 16] {
        let mut tickets = Vec::new();
        while let Ok(ticket) = machine.admit(Who::Caller, now).0 {
            tickets.push(ticket);
        }
        assert_eq!(tickets.len(), wanted);
        assert!(
            machine.admit(Who::Critical, now).0.is_ok(),
            "a critical call is not held back"
        );
        // That one stays out: it counts, and harms nobody.
        for ticket in tickets {
            machine.end(ticket, Outcome::Answered, false, now);
        }
        now += config().slow_start / 4;
        let (generation, role) = (machine.generation(), Role::Ramped);
        machine.end(Ticket { generation, role }, Outcome::Unknown, false, now);
    }
    assert_eq!(machine.admit(Who::Caller, now).0.unwrap().role, Role::Plain);
}
