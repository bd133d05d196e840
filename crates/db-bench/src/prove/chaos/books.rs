//! What was seen, and what should not have been.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// Lateness that is worth a look at all.
const NOTED: Duration = Duration::from_millis(50);
/// Kept of each kind of note; the others are counted.
const KEPT: usize = 1000;

/// Calls of one kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Calls {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

/// A call that ended after its limit.
struct Late {
    what: &'static str,
    limit: Duration,
    ended: Instant,
    by: Duration,
}

/// Everything that the callers note.
pub(crate) struct Books {
    began: Instant,
    violations: Mutex<Vec<String>>,
    calls: Mutex<BTreeMap<&'static str, Calls>>,
    errors: Mutex<BTreeMap<String, u64>>,
    late: Mutex<Vec<Late>>,
    /// Spans in which this process was not given the processor, or a thread of the runtime was held up.
    noise: Mutex<Vec<(Instant, Instant, Duration)>>,
    /// Transfers and plain rows that were acknowledged.
    pub(crate) transfers: Mutex<Vec<i64>>,
    pub(crate) plain: Mutex<Vec<i64>>,
    pub(crate) repeated: AtomicU64,
    /// What the writers of each cell have been told.
    pub(crate) cells: [AtomicI64; 8],
    pub(crate) next: AtomicI64,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            violations: Mutex::default(),
            calls: Mutex::default(),
            errors: Mutex::default(),
            late: Mutex::default(),
            noise: Mutex::default(),
            transfers: Mutex::default(),
            plain: Mutex::default(),
            repeated: AtomicU64::new(0),
            cells: Default::default(),
            next: AtomicI64::new(0),
        }
    }

    /// An invariant did not hold.
    pub(crate) fn violate(&self, what: impl Display) {
        let line = format!("{:8.3} s  {what}", self.began.elapsed().as_secs_f64());
        println!("  VIOLATION {line}");
        let mut violations = self.violations.lock();
        if violations.len() < KEPT {
            violations.push(line);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub(crate) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }

    /// Runs a call and notes how it ended; one that has a limit must end by it.
    pub(crate) async fn call<T, E: Display>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        let began = Instant::now();
        let out = call.await;
        let ended = Instant::now();
        let by = (ended - began).saturating_sub(limit);
        if by > NOTED {
            let mut late = self.late.lock();
            if late.len() < KEPT {
                late.push(Late { what, limit, ended, by });
            }
        }
        let mut calls = self.calls.lock();
        let calls = calls.entry(what).or_default();
        match out {
            Ok(value) => {
                calls.ok += 1;
                Some(value)
            }
            Err(error) => {
                calls.failed += 1;
                let mut errors = self.errors.lock();
                let text = format!("{what}: {error}");
                // Numbers make one error many.
                let text: String = text.chars().filter(|c| !c.is_ascii_digit()).take(100).collect();
                if errors.len() < KEPT || errors.contains_key(&text) {
                    *errors.entry(text).or_default() += 1;
                }
                None
            }
        }
    }

    pub(crate) fn calls(&self) -> BTreeMap<&'static str, Calls> {
        self.calls.lock().clone()
    }

    pub(crate) fn errors(&self) -> Vec<(u64, String)> {
        let mut errors: Vec<_> = self.errors.lock().iter().map(|(text, n)| (*n, text.clone())).collect();
        errors.sort_unstable_by(|a, b| b.cmp(a));
        errors
    }

    /// Measures what the machine alone adds to every wait, until it is dropped.
    pub(crate) async fn listen_to_noise(&self) {
        const TICK: Duration = Duration::from_millis(5);
        // What a timer's own grain may take.
        const USUAL: Duration = Duration::from_millis(5);
        loop {
            let began = Instant::now();
            sleep(TICK).await;
            let ended = Instant::now();
            let late = (ended - began).saturating_sub(TICK + USUAL);
            if !late.is_zero() {
                let mut noise = self.noise.lock();
                if noise.len() < KEPT * 100 {
                    noise.push((began, ended, late));
                }
            }
        }
    }

    /// Calls beyond their limit: the worst of all, the worst without the noise of its time, and those beyond `grace`.
    pub(crate) fn lateness(&self, grace: Duration) -> Lateness {
        let noise = self.noise.lock();
        let mut all = Lateness {
            noise: noise.iter().map(|(.., late)| *late).max().unwrap_or_default(),
            ..Lateness::default()
        };
        for late in self.late.lock().iter() {
            let due = late.ended - late.by;
            let stalls = noise
                .iter()
                .filter(|(began, ended, _)| *ended >= due && *began <= late.ended);
            let noise: Duration = stalls.map(|(.., late)| *late).sum();
            let own = late.by.saturating_sub(noise);
            all.raw = all.raw.max(late.by);
            all.own = all.own.max(own);
            if own > grace {
                all.beyond.push(format!(
                    "{:8.3} s  {} of {:?} ended {:?} late, of which {noise:?} was the machine's",
                    self.since_start(late.ended).as_secs_f64(),
                    late.what,
                    late.limit,
                    late.by
                ));
            }
        }
        all
    }

    pub(crate) fn number(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// How late calls were.
#[derive(Default)]
pub(crate) struct Lateness {
    pub(crate) raw: Duration,
    pub(crate) own: Duration,
    pub(crate) noise: Duration,
    pub(crate) beyond: Vec<String>,
}
