//! The handle: one breaker for one endpoint.

use super::{
    config::BreakerConfig,
    machine::{Change, Machine, Who},
    outcome::Outcome,
    permit::Permit,
    probe::{self, Probe},
    stats::{BreakerStats, Counters},
};
use db_core::{
    BreakerOpen, BreakerState, Call, Error, Event, Lease, LeaseState, Observers, Priority, Result, Source,
    config::{Checks, InvalidConfig, Mode},
};
use parking_lot::Mutex;
use sqlx::Connection;
use std::{
    fmt,
    future::Future,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout},
};

/// In [`Shared::free`]: everybody passes and nothing is counted.
pub(super) const OFF: u64 = u64::MAX;
/// In [`Shared::free`]: whoever wants to pass must ask.
pub(super) const ASK: u64 = 0;

/// The circuit breaker of one endpoint. Cheap to clone; clones, and all layers made of them, share one state.
#[derive(Clone)]
pub struct Breaker {
    pub(crate) shared: Arc<Shared>,
    /// Ends the prober with the last handle.
    task: Arc<Task>,
}

pub(crate) struct Shared {
    pub(super) machine: Mutex<Machine>,
    /// The machine's generation while everybody passes, so that the common case takes no lock; [`ASK`] or [`OFF`].
    pub(super) free: AtomicU64,
    pub(super) probe: OnceLock<Arc<dyn Probe>>,
    /// Wakes the prober: the state has changed.
    pub(super) changed: Notify,
    pub(super) counters: Counters,
    observers: Observers,
}

/// The prober, while there is one.
#[derive(Default)]
pub(super) struct Task {
    running: Mutex<Option<AbortHandle>>,
    closed: AtomicBool,
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = self.running.get_mut().take() {
            task.abort();
        }
    }
}

impl Breaker {
    /// A breaker that tells `observers` what happens, without a prober: after its wait, the first caller is the probe.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(config: BreakerConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        Self::with_seed(config, observers, fastrand::u64(..))
    }

    /// The same with all waits as the seed says.
    ///
    /// # Errors
    /// As [`Breaker::new`].
    pub fn with_seed(config: BreakerConfig, observers: Observers, seed: u64) -> Result<Self, InvalidConfig> {
        check(&config)?;
        let off = config.mode.is_off();
        let machine = Machine::new(config, false, seed, Instant::now());
        let free = if off { OFF } else { machine.free().unwrap_or(ASK) };
        Ok(Self {
            shared: Arc::new(Shared {
                machine: Mutex::new(machine),
                free: AtomicU64::new(free),
                probe: OnceLock::new(),
                changed: Notify::new(),
                counters: Counters::default(),
                observers,
            }),
            task: Arc::default(),
        })
    }

    /// Lets `probe` try the endpoint while the breaker is open, in a task of the breaker's own, so that no caller has to
    /// (but a critical one may). The first one given stays.
    #[must_use]
    pub fn probed_by(self, probe: Arc<dyn Probe>) -> Self {
        if self.shared.probe.set(probe).is_ok() {
            self.shared.machine.lock().has_prober();
        }
        self
    }

    /// Lets a call through, or refuses it.
    ///
    /// # Errors
    /// [`BreakerOpen`], with how long another try is useless.
    pub fn admit(&self, call: &Call) -> Result<Permit<'_>, BreakerOpen> {
        match self.shared.free.load(Ordering::Acquire) {
            ASK => self.ask(call),
            OFF => Ok(Permit::unseen(self)),
            generation => Ok(Permit::plain(self, generation, call)),
        }
    }

    /// Refuses a call as [`Breaker::admit`] would, without a permit: for what can't be counted.
    ///
    /// # Errors
    /// As [`Breaker::admit`].
    pub fn check(&self, call: &Call) -> Result<(), BreakerOpen> {
        self.admit(call).map(Permit::unknown)
    }

    /// Runs any work under a permit, and counts how it ends.
    ///
    /// # Errors
    /// The work's own, or [`Error::Breaker`](db_core::Error::Breaker). Cancel-safe: a permit comes back with the dropped
    /// future.
    pub async fn around<T>(&self, call: &Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        let permit = self.admit(call)?;
        let out = work.await;
        permit.settle(out.as_ref().err());
        out
    }

    /// Takes a lease, unless there is no hope. On trial the lease is tried with a round trip, since an idle connection is
    /// handed out without asking the server; otherwise only getting none says something about it.
    ///
    /// # Errors
    /// [`Error::Breaker`], or why there is no lease. Cancel-safe.
    pub async fn acquire<S: Source>(&self, source: &S, call: &Call) -> Result<S::Lease> {
        let permit = self.admit(call)?;
        let mut lease = match source.acquire(call).await {
            Ok(lease) => lease,
            Err(error) => {
                permit.settle(Some(&error));
                return Err(error);
            }
        };
        if !permit.decides() {
            permit.unknown();
            return Ok(lease);
        }
        let limit = self.config().probe_timeout;
        let answer = match timeout(limit, lease.start().ping()).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()).into()),
        };
        permit.settle(answer.as_ref().err());
        lease.settle(answer.as_ref().map_or(LeaseState::Broken, |()| LeaseState::Clean));
        answer.map(|()| lease)
    }

    /// Counts how something ended that needed no permit: a statement of a transaction that is open already.
    pub fn note<T>(&self, out: &Result<T>) {
        if self.shared.free.load(Ordering::Relaxed) != OFF {
            let outcome = out.as_ref().map_or_else(Outcome::of, |_| Outcome::Answered);
            self.saw(outcome);
            self.apply(|machine, now| machine.note(outcome, now));
        }
    }

    /// Opens until [`Breaker::reset`], whatever the settings say.
    pub fn force_open(&self) {
        self.apply(Machine::force_open);
    }

    /// Lets everything through and counts nothing, until [`Breaker::reset`].
    pub fn disable(&self) {
        self.apply(Machine::disable);
    }

    /// Closes, with nothing known.
    pub fn reset(&self) {
        self.apply(Machine::reset);
    }

    /// Ends the prober for good: for an endpoint that nobody calls any more.
    pub fn close(&self) {
        let running = {
            let mut running = self.task.running.lock();
            self.task.closed.store(true, Ordering::Relaxed);
            running.take()
        };
        if let Some(task) = running {
            task.abort();
        }
    }

    /// The state at this moment.
    pub fn state(&self) -> BreakerState {
        self.shared.machine.lock().state()
    }

    /// What is known of the endpoint, and what has been counted.
    pub fn stats(&self) -> BreakerStats {
        BreakerStats::of(&mut self.shared.machine.lock(), &self.shared.counters, Instant::now())
    }

    /// The settings in force.
    pub fn config(&self) -> BreakerConfig {
        self.shared.machine.lock().config().clone()
    }

    /// Swaps the settings. A window of another size starts empty; a breaker that no longer enforces closes.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: BreakerConfig) -> Result<(), InvalidConfig> {
        check(&config)?;
        self.apply(|machine, now| machine.reload(config, now));
        Ok(())
    }

    #[cold]
    fn ask(&self, call: &Call) -> Result<Permit<'_>, BreakerOpen> {
        let now = Instant::now();
        let mut admitted = None;
        self.apply(|machine, _| {
            let (ticket, change) = machine.admit(who(call), now);
            admitted = Some(ticket);
            change
        });
        match admitted {
            Some(Ok(ticket)) => Ok(Permit::of(self, ticket, now, call)),
            Some(Err(open)) => {
                self.shared.counters.refused();
                self.shared.tell(|| Event::BreakerRefused {
                    state: open.state,
                    class: call.class,
                });
                Err(open)
            }
            None => Ok(Permit::unseen(self)),
        }
    }

    /// A move of the machine, and all that follows from it.
    pub(super) fn apply(&self, change: impl FnOnce(&mut Machine, Instant) -> Option<Change>) {
        let now = Instant::now();
        let (change, probing) = {
            let mut machine = self.shared.machine.lock();
            let change = change(&mut machine, now);
            self.shared.settle(&machine, change.is_some());
            (change, machine.take_up_probing())
        };
        self.shared.announce(change);
        if probing {
            self.start_prober();
        }
    }

    pub(super) fn saw(&self, outcome: Outcome) {
        if let Outcome::Failed(cause) = outcome {
            self.shared.counters.failed(cause);
        }
    }

    #[cold]
    fn start_prober(&self) {
        let mut running = self.task.running.lock();
        let closed = self.task.closed.load(Ordering::Relaxed);
        match (!closed).then(|| probe::spawn(&self.shared)).flatten() {
            Some(task) => *running = Some(task),
            // Without a runtime nobody can probe now; the next caller comes with one.
            None => self.shared.machine.lock().prober_gone(),
        }
    }
}

impl Shared {
    /// After a move: the short-cut for callers, and the prober's alarm.
    pub(super) fn settle(&self, machine: &Machine, changed: bool) {
        let free = match machine.config().mode {
            Mode::Off => OFF,
            Mode::Observe | Mode::Enforce => machine.free().unwrap_or(ASK),
        };
        self.free.store(free, Ordering::Release);
        if changed {
            self.changed.notify_one();
        }
    }

    pub(super) fn announce(&self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::WouldOpen(cause)) => {
                self.counters.would_open();
                self.tell(|| Event::BreakerWouldOpen { cause });
            }
            Some(Change::State {
                from,
                to,
                cause,
                retry_after,
            }) => {
                self.counters.entered(to);
                if let Some(probe) = self.probe.get() {
                    probe.changed(to);
                }
                tracing::info!(
                    from = from.name(),
                    to = to.name(),
                    cause = cause.name(),
                    "circuit breaker"
                );
                self.tell(|| Event::BreakerChanged {
                    from,
                    to,
                    cause,
                    retry_after,
                });
            }
        }
    }

    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        self.observers.tell(event);
    }
}

fn who(call: &Call) -> Who {
    match call.priority {
        Priority::Critical => Who::Critical,
        _ => Who::Caller,
    }
}

fn check(config: &BreakerConfig) -> Result<(), InvalidConfig> {
    let mut checks = Checks::default();
    config.validate("breaker", &mut checks);
    checks.finish()
}

impl Default for Breaker {
    /// The default settings, and nobody listens.
    fn default() -> Self {
        Self::new(BreakerConfig::default(), Observers::default()).expect("the default settings are valid")
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
