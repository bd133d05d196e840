//! The slow-query log: lines for `tracing`, and rows for the table `slow_queries`.
//!
//! Nothing of it runs on the stack that it watches: rows wait in a bounded queue and are written in batches over a
//! connection of the log's own, which nobody else observes. What finds no room, or can't be written, is counted.

mod config;
mod lines;
mod writer;

pub use config::SlowQueryConfig;

use crate::{
    bounded::cut,
    live::SlowLine,
    meter::{Meter, SlowLines},
    readings::{Read, Readings},
    registry::Id,
};
use arc_swap::ArcSwap;
use db_core::{CallReport, Event, Observer, Outcome, StatementFacts};
use lines::{Lines, Seen};
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use std::{
    borrow::Cow,
    fmt,
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

/// How long the last rows may take to be written at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes of arguments in one row.
const ARGUMENTS: usize = 1000;

/// Where the log's own connection goes. Asked anew for each connection, so that changed credentials are taken.
pub type Address = Arc<dyn Fn() -> PgConnectOptions + Send + Sync>;

/// The log of one stack. Cheap to clone; the last one to go ends the writer.
#[derive(Clone)]
pub struct SlowLog(Arc<Log>);

struct Log {
    config: ArcSwap<SlowQueryConfig>,
    /// From which duration on anything is to be done, in nanoseconds: all that an ordinary call looks at.
    threshold: AtomicU64,
    lines: Lines,
    rows: mpsc::Sender<Row>,
    writer: Mutex<Writer>,
    counts: Arc<Counts>,
}

/// The writer begins with the first row, in the runtime of the call that was slow.
enum Writer {
    Waiting(mpsc::Receiver<Row>, Address),
    Running(Ending),
    Ended,
}

/// Ends the writer, whoever stops waiting for it.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct Counts {
    /// The writer is to write what is waiting, and to end.
    closing: Notify,
    written: AtomicU64,
    /// There was no room in the queue.
    full: AtomicU64,
    /// They could not be written.
    failed: AtomicU64,
}

/// One entry.
struct Row {
    at: SystemTime,
    facts: Option<Arc<StatementFacts>>,
    class: &'static str,
    outcome: Cow<'static, str>,
    took: Duration,
    waited: Duration,
    threshold: Duration,
    skipped: u64,
    site: Option<&'static Location<'static>>,
    arguments: Option<String>,
}

impl Row {
    /// As the fingerprint's bits; 0 for what is no statement.
    fn fingerprint(&self) -> u64 {
        self.facts.as_ref().map_or(0, |facts| facts.fingerprint().get())
    }

    fn summary(&self) -> &str {
        self.facts.as_ref().map_or("transaction", |facts| facts.summary())
    }

    fn statement(&self) -> &str {
        self.facts.as_ref().map_or("", |facts| facts.normalized())
    }
}

impl SlowLog {
    /// A log whose rows go to `address`. Add it to the observers of the stack.
    pub fn new(config: SlowQueryConfig, address: Address) -> Self {
        let (rows, receiver) = mpsc::channel(config.queue.max(1));
        Self(Arc::new(Log {
            threshold: AtomicU64::new(threshold(&config)),
            config: ArcSwap::from_pointee(config),
            lines: Lines::default(),
            rows,
            writer: Mutex::new(Writer::Waiting(receiver, address)),
            counts: Arc::default(),
        }))
    }

    /// The same log as an observer of every call.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.0.clone()
    }

    /// Shows the log's counts among the metrics, and its statements on the live page.
    pub fn show_on(&self, meter: &Meter) {
        meter.add_source(self.0.clone());
        drop(meter.shared.slow.set(self.0.clone()));
    }

    /// Swaps the settings; the length of the queue stays.
    pub fn reload(&self, config: SlowQueryConfig) {
        self.0.threshold.store(threshold(&config), Ordering::Relaxed);
        self.0.config.store(Arc::new(config));
    }

    /// Rows written, dropped for want of room, and lost because they could not be written.
    pub fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.0.counts;
        (read(&counts.written), read(&counts.full), read(&counts.failed))
    }

    /// Writes what is waiting, for at most two seconds, and ends. Cancel-safe: a dropped future ends the writer.
    pub async fn close(&self) {
        let writer = std::mem::replace(&mut *self.0.writer.lock(), Writer::Ended);
        if let Writer::Running(mut task) = writer {
            self.0.counts.closing.notify_one();
            drop(timeout(FAREWELL, &mut task.0).await);
        }
    }
}

impl fmt::Debug for SlowLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, full, failed) = self.counts();
        f.debug_struct("SlowLog")
            .field("written", &written)
            .field("dropped", &(full + failed))
            .finish_non_exhaustive()
    }
}

impl Observer for Log {
    fn event(&self, _: &Event) {}

    fn watches_calls(&self) -> bool {
        true
    }

    fn call(&self, report: &CallReport<'_>) {
        if report.took.as_nanos() > u128::from(self.threshold.load(Ordering::Relaxed)) {
            self.slow(report);
        }
    }
}

fn threshold(config: &SlowQueryConfig) -> u64 {
    if config.mode.enforces() {
        u64::try_from(config.threshold.as_nanos()).unwrap_or(u64::MAX)
    } else {
        u64::MAX
    }
}

impl Log {
    #[cold]
    fn slow(&self, report: &CallReport<'_>) {
        let config = self.config.load();
        let Seen::Listed { skipped } = self.lines.note(report, config.per_second) else {
            return;
        };
        let row = Row {
            at: SystemTime::now(),
            facts: report.facts.cloned(),
            class: report.call.class.name(),
            outcome: match report.outcome {
                Outcome::Done => Cow::Borrowed("done"),
                Outcome::Abandoned => Cow::Borrowed("cancelled"),
                Outcome::Failed(error) => error.error_type(),
            },
            took: report.took,
            waited: report.spent.total(),
            threshold: config.threshold,
            skipped,
            site: report.call.site,
            arguments: report
                .arguments
                .filter(|_| config.arguments && config.table)
                .map(|arguments| cut(&format!("{arguments:?}"), ARGUMENTS).to_owned()),
        };
        tracing::warn!(
            target: "db_stack::slow",
            fingerprint = format_args!("{:016x}", row.fingerprint()),
            summary = row.summary(),
            statement = row.statement(),
            class = row.class,
            outcome = &*row.outcome,
            elapsed_ms = row.took.as_secs_f64() * 1000.0,
            waited_ms = row.waited.as_secs_f64() * 1000.0,
            site = row.site.map(tracing::field::display),
            skipped,
            "slow query"
        );
        if config.table {
            self.start();
            if self.rows.try_send(row).is_err() {
                self.counts.full.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn start(&self) {
        let mut writer = self.writer.lock();
        let Ok(runtime) = Handle::try_current() else { return };
        *writer = match std::mem::replace(&mut *writer, Writer::Ended) {
            Writer::Waiting(rows, address) => {
                let write = writer::write(rows, address, self.config.load_full(), self.counts.clone());
                Writer::Running(Ending(runtime.spawn(write)))
            }
            other => other,
        };
    }
}

impl SlowLines for Log {
    fn lines(&self) -> Vec<SlowLine> {
        self.lines.list()
    }
}

impl Read for Log {
    fn read(&self, readings: &mut Readings) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        readings.total(Id::SlowLogWritten, &[], read(&self.counts.written));
        readings.total(Id::SlowLogDropped, &["full"], read(&self.counts.full));
        readings.total(Id::SlowLogDropped, &["failed"], read(&self.counts.failed));
    }
}
