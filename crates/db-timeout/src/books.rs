//! What is counted for each class and each statement.

use crate::{
    class::ClassLimits,
    config::TimeoutConfig,
    learner::{self, Learner, Widened},
    limit::{Ending, Findings},
    recent::{Recent, histogram},
    stats::{ClassStats, Counts, StatementStats, Times},
};
use db_core::Fingerprint;
use parking_lot::Mutex;
use quick_cache::{UnitWeighter, sync::Cache};
use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// One call that ended, as both books note it.
pub(crate) struct Entry<'a> {
    pub(crate) ending: Ending,
    pub(crate) took: Duration,
    pub(crate) findings: Findings,
    pub(crate) now: Instant,
    pub(crate) config: &'a TimeoutConfig,
    pub(crate) class: &'a ClassLimits,
}

/// The book of one class: a page for each of a few threads, so that they do not wait for one another.
pub(crate) struct ClassBook(Box<[Page]>);

/// Alone on its cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Page(Mutex<Tally>);

#[derive(Default)]
struct Tally {
    counts: Counts,
    recent: Recent,
}

impl ClassBook {
    pub(crate) fn new() -> Self {
        const MOST: usize = 16;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self((0..threads.min(MOST)).map(|_| Page::default()).collect())
    }

    pub(crate) fn note(&self, entry: &Entry<'_>) {
        let mut tally = self.0[thread_number() % self.0.len()].0.lock();
        tally.counts.note(entry.ending, &entry.findings);
        if matches!(entry.ending, Ending::Finished | Ending::TimedOut) {
            tally.recent.turn(entry.now, entry.config.window, 0);
            tally.recent.record(entry.took);
        }
    }

    pub(crate) fn stats(&self, class: &str, limits: ClassLimits, window: Duration) -> ClassStats {
        let (mut counts, mut times, now) = (Counts::default(), histogram(), Instant::now());
        for page in &self.0 {
            let mut tally = page.0.lock();
            counts.add(&tally.counts);
            tally.recent.turn(now, window, 0);
            tally.recent.add_to(&mut times);
        }
        ClassStats {
            class: class.to_owned(),
            limits,
            counts,
            times: Times::of(&times),
        }
    }
}

/// A number for each thread, in the order in which they come.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that ends may drop futures after its locals.
    MINE.try_with(|mine| *mine).unwrap_or_default()
}

/// The book of one statement.
#[derive(Default)]
pub(crate) struct Tracked {
    /// A copy of the learned limit in nanoseconds, to be read without the lock; 0 is none.
    learned: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    counts: Counts,
    recent: Recent,
    learner: Learner,
}

impl Tracked {
    pub(crate) fn learned(&self) -> Option<Duration> {
        match self.learned.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Notes the call and learns from it.
    pub(crate) fn note(&self, entry: &Entry<'_>) -> Option<Widened> {
        let adaptive = &entry.config.adaptive;
        let mut guard = self.record.lock();
        let Record {
            counts,
            recent,
            learner,
        } = &mut *guard;
        counts.note(entry.ending, &entry.findings);
        learner::turn(recent, entry.now, entry.config.window, adaptive);
        let widened = match entry.ending {
            Ending::Finished => {
                recent.record(entry.took);
                if !adaptive.mode.is_off() {
                    learner.finished(recent, adaptive);
                }
                None
            }
            Ending::TimedOut if adaptive.mode.is_off() => {
                recent.record_given_up(entry.took);
                None
            }
            Ending::TimedOut => learner.given_up(recent, entry.took, entry.class.timeout, adaptive),
            // Its caller had waited as long as the limit, or longer: a timeout by another name.
            Ending::Abandoned if entry.findings.passed.is_some() && !adaptive.mode.is_off() => {
                learner.given_up(recent, entry.took, entry.class.timeout, adaptive)
            }
            Ending::Streamed | Ending::Failed | Ending::Refused | Ending::Abandoned => None,
        };
        let nanos = learner
            .limit()
            .map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        self.learned.store(nanos, Ordering::Relaxed);
        widened
    }

    pub(crate) fn stats(&self, statement: Fingerprint) -> StatementStats {
        let record = self.record.lock();
        StatementStats {
            statement,
            learned: record.learner.limit(),
            counts: record.counts,
            times: record.recent.times(),
        }
    }
}

/// The statements that are remembered.
pub(crate) struct Statements(Cache<Fingerprint, Arc<Tracked>, UnitWeighter, foldhash::fast::RandomState>);

impl Statements {
    pub(crate) fn new(most: usize) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Self(Cache::with(most, most as u64, UnitWeighter, hasher, Default::default()))
    }

    pub(crate) fn resize(&self, most: usize) {
        self.0.set_capacity(most as u64);
    }

    pub(crate) fn get(&self, statement: Fingerprint) -> Option<Arc<Tracked>> {
        self.0.get(&statement)
    }

    pub(crate) fn track(&self, statement: Fingerprint) -> Arc<Tracked> {
        self.get(statement).unwrap_or_else(|| self.meet(statement))
    }

    #[cold]
    fn meet(&self, statement: Fingerprint) -> Arc<Tracked> {
        // Two threads may meet it at once: the second book replaces the first, and one call goes unnoted.
        let tracked = Arc::new(Tracked::default());
        self.0.insert(statement, Arc::clone(&tracked));
        tracked
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn stats(&self) -> Vec<StatementStats> {
        self.0
            .iter()
            .map(|(statement, tracked)| tracked.stats(statement))
            .collect()
    }
}
