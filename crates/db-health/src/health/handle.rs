//! The handle: reports, readiness, liveness, and the monitor behind them.

use super::{
    check::Check,
    checks::local::{self, Before},
    config::HealthConfig,
    lane, monitor,
    report::{CheckReport, Finding, HealthReport, Status, show},
    standing::{LOCAL, Standing, Standings},
    subject::{Reserved, Subject},
    vitals::{Liveness, Readiness, Vitals},
};
use arc_swap::ArcSwap;
use db_core::{
    Observers,
    config::{Checks, InvalidConfig},
};
use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use parking_lot::Mutex;
use std::{
    borrow::Cow,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

/// The health of one database. Cheap to clone; the monitor ends with the last clone.
///
/// It uses one connection beside the pool's budget, opened when it is first needed and kept: so a report works when the
/// pool is exhausted, and the server has to have room for one more.
#[derive(Clone)]
pub struct Health {
    pub(super) shared: Arc<Shared>,
    task: Arc<Task>,
}

pub(super) struct Shared {
    pub(super) subject: Arc<dyn Subject>,
    pub(super) config: ArcSwap<HealthConfig>,
    pub(super) observers: Observers,
    pub(super) vitals: Mutex<Vitals>,
    checks: Mutex<Vec<Arc<dyn Check>>>,
    /// What the checks of callers compare with.
    before: Mutex<Before>,
    /// What those of the monitor's own reports compare with.
    pub(super) before_own: Mutex<Before>,
    standings: Mutex<Standings>,
    /// Who has it asks the server; one at a time.
    pub(super) line: tokio::sync::Mutex<Line>,
    /// No connection is kept any more.
    closed: AtomicBool,
}

impl Shared {
    /// Before its use: a connection to where the endpoint was says nothing about where it is.
    pub(super) fn begin(&self, line: &mut Line) {
        let epoch = self.subject.epoch();
        if std::mem::replace(&mut line.epoch, epoch) != epoch {
            line.kept = None;
        }
    }

    /// After its use: the connection stays for the next time, unless there is to be none.
    pub(super) fn done(&self, line: &mut Line) {
        if self.closed.load(Ordering::Acquire) {
            line.kept = None;
        }
    }
}

/// The connection beside the pool, and what it was last used for.
#[derive(Default)]
pub(super) struct Line {
    pub(super) kept: Option<Reserved>,
    epoch: u64,
    last: Option<(Instant, HealthReport)>,
}

#[derive(Default)]
struct Task(Mutex<Option<AbortHandle>>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().take() {
            task.abort();
        }
    }
}

impl Health {
    /// The health of `subject`, not watched yet.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(subject: Arc<dyn Subject>, config: HealthConfig, observers: Observers) -> Result<Self, InvalidConfig> {
        check(&config)?;
        Ok(Self {
            shared: Arc::new(Shared {
                subject,
                config: ArcSwap::from_pointee(config),
                observers,
                vitals: Mutex::default(),
                checks: Mutex::default(),
                before: Mutex::default(),
                before_own: Mutex::default(),
                standings: Mutex::default(),
                line: tokio::sync::Mutex::default(),
                closed: AtomicBool::new(false),
            }),
            task: Arc::default(),
        })
    }

    /// Starts the monitor, in the runtime of the caller, unless it runs or the mode is off. Called by everything that
    /// wants to know something, so that it is needed only to be early.
    pub fn watch(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut running = self.task.0.lock();
        if running.is_none() && !self.shared.config.load().mode.is_off() && !self.shared.subject.is_closed() {
            let now = Instant::now();
            {
                let mut vitals = self.shared.vitals.lock();
                (vitals.watched_since, vitals.beat) = (Some(now), Some(now));
            }
            *running = Some(
                runtime
                    .spawn(monitor::watch(Arc::downgrade(&self.shared)))
                    .abort_handle(),
            );
        }
    }

    /// Ends the monitor and the connection beside the pool. Readiness is refused from now on. A report on its way is
    /// waited for: [`HealthConfig::report_timeout`] at most. Cancel-safe: dropped meanwhile, the report ends the connection.
    pub async fn close(&self) {
        self.drain();
        if let Some(task) = self.task.0.lock().take() {
            task.abort();
        }
        self.shared.vitals.lock().beat = None;
        self.shared.closed.store(true, Ordering::Release);
        self.shared.line.lock().await.kept = None;
    }

    /// Refuses readiness from now on, so that no new traffic comes while calls go on being served: for the time between
    /// the signal to end and the end.
    pub fn drain(&self) {
        self.shared.vitals.lock().draining = true;
    }

    /// Adds a check of the user's own, in place of one of the same name.
    pub fn add(&self, check: Arc<dyn Check>) {
        let mut checks = self.shared.checks.lock();
        checks.retain(|other| other.name() != check.name());
        checks.push(check);
    }

    /// Whether the process should go on living. Asks nobody.
    pub fn liveness(&self) -> Liveness {
        self.watch();
        let config = self.shared.config.load();
        let monitor = self.task.0.lock().as_ref().is_none_or(|task| !task.is_finished());
        let tasks = self.shared.subject.is_closed() || (monitor && self.shared.subject.is_alive());
        self.shared.vitals.lock().liveness(tasks, &config, Instant::now())
    }

    /// Whether the service should get traffic. Asks nobody: it is what the monitor and the calls have seen.
    pub fn readiness(&self) -> Readiness {
        self.watch();
        self.readiness_so_far()
    }

    /// The same by what has been seen so far, without starting the monitor.
    pub fn readiness_so_far(&self) -> Readiness {
        let subject = &self.shared.subject;
        let (closed, breaker) = (subject.is_closed(), subject.breaker());
        let config = self.shared.config.load();
        self.shared
            .vitals
            .lock()
            .readiness(closed, &breaker, &config, Instant::now())
    }

    /// Examines everything, side by side, within [`HealthConfig::report_timeout`]. Callers at the same time share one
    /// report. Cancel-safe.
    pub async fn report(&self) -> HealthReport {
        self.watch();
        self.shared.report(&self.shared.before).await
    }

    /// Every check by name, as it was when it was last found out: by whoever asked for a report, or by the monitor's own
    /// of [`HealthConfig::report_every`]. Asks nobody.
    pub fn standings(&self) -> Vec<(Cow<'static, str>, Standing)> {
        self.shared.standings.lock().list()
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<HealthConfig> {
        self.shared.config.load_full()
    }

    /// Swaps the settings. The monitor keeps to them from its next round on; one that was off starts when somebody asks.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: HealthConfig) -> Result<(), InvalidConfig> {
        check(&config)?;
        self.shared.config.store(Arc::new(config));
        Ok(())
    }
}

impl Shared {
    /// One report, shared by those who ask at the same time.
    pub(super) async fn report(&self, before: &Mutex<Before>) -> HealthReport {
        let config = self.config.load_full();
        let since = Instant::now();
        let deadline = since + config.report_timeout;
        let asked = async {
            let mut line = match timeout_at(deadline, self.line.lock()).await {
                Ok(line) => line,
                Err(_) => return Err(unreached(since.elapsed())),
            };
            if let Some((ended, report)) = &line.last
                && *ended >= since
            {
                return Ok(report.clone());
            }
            self.begin(&mut line);
            let checks = join(
                lane::run(&*self.subject, &mut line.kept, &config, deadline),
                own(self.checks.lock().clone(), deadline),
            );
            let (server, own) = checks.await;
            if server.first().is_some_and(|met| met.status == Status::Healthy) {
                self.vitals.lock().succeeded(Instant::now());
            }
            let all = server.into_iter().chain(self.local(&config, before)).collect();
            let report = HealthReport::new(replace(all, own), since.elapsed());
            self.standings.lock().note(&report);
            line.last = Some((Instant::now(), report.clone()));
            self.done(&mut line);
            Ok(report)
        };
        asked.await.unwrap_or_else(|unreached| {
            let all = unreached.into_iter().chain(self.local(&config, before)).collect();
            HealthReport::new(all, since.elapsed())
        })
    }

    /// When the newest report was made, if any; nothing is known while one is being made.
    pub(super) fn last_report(&self) -> Option<Instant> {
        let line = self.line.try_lock().ok()?;
        line.last.as_ref().map(|(ended, _)| *ended)
    }

    fn local(&self, config: &HealthConfig, before: &Mutex<Before>) -> Vec<CheckReport> {
        let subject = &*self.subject;
        let mut before = before.lock();
        let timed = |name, finding: &mut dyn FnMut() -> Finding| {
            let since = Instant::now();
            let finding = finding();
            CheckReport::new(name, finding, since.elapsed())
        };
        let [pool, calls, breaker, leases] = LOCAL;
        vec![
            timed(pool, &mut || local::pool(subject.pool(), &mut before, config)),
            timed(calls, &mut || local::calls(subject, &mut before, config)),
            timed(breaker, &mut || local::breaker(subject)),
            timed(leases, &mut || local::leases(subject, config)),
        ]
    }
}

/// The user's own checks, side by side.
async fn own(checks: Vec<Arc<dyn Check>>, deadline: Instant) -> Vec<CheckReport> {
    let runs = checks.iter().map(|check| async move {
        let since = Instant::now();
        // Called inside, since it may panic before it returns its future.
        let run = AssertUnwindSafe(async { check.check().await }).catch_unwind();
        let finding = match timeout_at(deadline, run).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(_)) => Finding::unknown("it panicked"),
            Err(_) => Finding::unknown(format!("no answer within {}", show(since.elapsed()))),
        };
        CheckReport::new(check.name().to_owned(), finding, since.elapsed())
    });
    join_all(runs).await
}

/// Puts each of the user's checks in the place of one of its name, else at the end.
fn replace(mut all: Vec<CheckReport>, own: Vec<CheckReport>) -> Vec<CheckReport> {
    for report in own {
        match all.iter_mut().find(|other| other.name == report.name) {
            Some(other) => *other = report,
            None => all.push(report),
        }
    }
    all
}

/// Another report has not come to its end in all that time.
fn unreached(took: Duration) -> Vec<CheckReport> {
    lane::NAMES
        .iter()
        .map(|name| {
            CheckReport::new(
                Cow::Borrowed(*name),
                Finding::unknown("another report takes too long"),
                took,
            )
        })
        .collect()
}

fn check(config: &HealthConfig) -> Result<(), InvalidConfig> {
    let mut checks = Checks::default();
    config.validate("health", &mut checks);
    checks.finish()
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("vitals", &self.shared.vitals.lock())
            .finish_non_exhaustive()
    }
}
