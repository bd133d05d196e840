//! How busy a node is: peak-sensitive latency times outstanding calls.

use crate::outlier::{Fastest, Pace, Typical};
use parking_lot::Mutex;
use std::{
    cmp,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// What a node counts as before anything is known.
const UNKNOWN: Duration = Duration::from_millis(1);
/// How much of a rise one call counts for. All of it (linkerd, finagle) would send everybody to a node that is ten times
/// slower whenever the other one hiccups.
const RISE: f64 = 0.25;
/// A node that was found slow is tried again by one read when it was passed over so often, which keeps its share below
/// the hundredth that a 99th percentile would show, or when nobody has asked it for so many spans of decay.
const PASSED_OVER: u64 = 200;
const UNUSED: u32 = 30;
/// Nodes whose latencies differ by less than this factor are told apart by how busy they are: a caller who asks one thing
/// after the other uses them all.
const ALIKE: f64 = 2.0;

/// The latency of a node as an average that follows a rise within some calls and a fall slowly, and the number of calls
/// under way.
#[derive(Debug)]
pub(crate) struct Load {
    outstanding: AtomicU64,
    /// How often another node was preferred since it was chosen last.
    passed_over: AtomicU64,
    latency: Mutex<Latency>,
    pub(crate) pace: Pace,
}

/// A node at one moment, as one that is compared with another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    nanos: f64,
    outstanding: u64,
    /// It is to be tried again.
    due: bool,
}

impl Busy {
    /// The better one is less. What was measured does not fade by itself: with many calls under way on the other node, a
    /// tenth of that would do to send a slow one every thirtieth read.
    pub(crate) fn compare(self, other: Self) -> cmp::Ordering {
        if self.due != other.due {
            return other.due.cmp(&self.due);
        }
        let (less, more) = (self.nanos.min(other.nanos), self.nanos.max(other.nanos));
        if more <= less * ALIKE {
            return self.outstanding.cmp(&other.outstanding);
        }
        self.cost().total_cmp(&other.cost())
    }

    fn cost(self) -> f64 {
        self.nanos * (self.outstanding + 1) as f64
    }
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    nanos: f64,
    at: Instant,
    typical: Typical,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            outstanding: AtomicU64::new(0),
            passed_over: AtomicU64::new(0),
            latency: Mutex::new(Latency {
                nanos: UNKNOWN.as_nanos() as f64,
                at: Instant::now(),
                typical: Typical::default(),
            }),
            pace: Pace::default(),
        }
    }

    /// What the next call would meet.
    pub(crate) fn now(&self, now: Instant, decay: Duration) -> Busy {
        let (latency, outstanding) = (*self.latency.lock(), self.outstanding());
        let idle = now.saturating_duration_since(latency.at);
        Busy {
            nanos: latency.nanos,
            outstanding,
            due: outstanding == 0 && self.waited(idle, decay, false),
        }
    }

    /// Whether an outlier is to be tried by one read. Where a look at it is slow itself, hardly ever: that says it all.
    pub(crate) fn is_due(&self, now: Instant, decay: Duration, fastest: Fastest) -> bool {
        let idle = now.saturating_duration_since(self.latency.lock().at);
        self.outstanding() == 0 && self.waited(idle, decay, self.pace.looks_slow(fastest))
    }

    fn waited(&self, idle: Duration, decay: Duration, known_slow: bool) -> bool {
        let passed_over = self.passed_over.load(Ordering::Relaxed);
        let often = idle >= decay && passed_over >= PASSED_OVER && !known_slow;
        often || (passed_over > 0 && idle >= decay * UNUSED)
    }

    /// It was chosen, or another node was.
    pub(crate) fn compared(&self, chosen: bool) {
        if chosen {
            self.passed_over.store(0, Ordering::Relaxed);
        } else {
            self.passed_over.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency.lock().nanos as u64)
    }

    pub(crate) fn begin(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call took so long.
    pub(crate) fn measured(&self, took: Duration, now: Instant, decay: Duration) {
        let took = took.as_nanos() as f64;
        let mut latency = self.latency.lock();
        let elapsed = now.saturating_duration_since(latency.at);
        let new = 1.0 - (-elapsed.as_secs_f64() / decay.as_secs_f64()).exp();
        let new = if took > latency.nanos { new.max(RISE) } else { new };
        latency.nanos += (took - latency.nanos) * new;
        latency.at = now;
        self.pace.measured(&mut latency.typical, took);
    }

    /// A call was given up after so long: it would have taken longer.
    pub(crate) fn given_up(&self, after: Duration, now: Instant) {
        let after = after.as_nanos() as f64;
        let mut latency = self.latency.lock();
        if after > latency.nanos {
            (latency.nanos, latency.at) = (after, now);
            self.pace.measured(&mut latency.typical, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rise_counts_within_some_calls_and_fades() {
        let (load, now) = (Load::new(), Instant::now());
        for call in 0..16 {
            load.measured(100 * MS, now + call * MS, DECAY);
        }
        assert!(load.latency() > 95 * MS, "{:?}", load.latency());
        load.measured(10 * MS, now + 100 * MS, DECAY);
        assert!(
            load.latency() > 80 * MS,
            "one good answer proves little: {:?}",
            load.latency()
        );
        let later = now + 100 * MS + 2 * DECAY;
        let due = |load: &Load, at| load.now(at, DECAY).due;
        assert!(!due(&load, later), "nobody has passed it over");
        for _ in 0..PASSED_OVER {
            load.compared(false);
        }
        assert!(!due(&load, now + 101 * MS), "it was asked just now");
        assert!(due(&load, later), "it is tried again");
        load.begin();
        assert!(!due(&load, later), "by one call at a time");
        load.end();
        load.compared(true);
        assert!(!due(&load, later), "and not by the next one");
        load.measured(4 * MS, later, DECAY);
        assert!(
            load.latency() < 25 * MS,
            "what it says then counts: {:?}",
            load.latency()
        );
        load.compared(false);
        assert!(
            due(&load, later + 31 * DECAY),
            "where there is little to do, after a while"
        );

        let steady = Load::new();
        steady.measured(4 * MS, now, DECAY);
        steady.measured(100 * MS, now + MS, DECAY);
        assert!(
            steady.latency() < 30 * MS,
            "a hiccup is no slow node: {:?}",
            steady.latency()
        );
    }

    #[test]
    fn an_outlier_whose_looks_are_slow_costs_no_read() {
        let (near, far) = (Load::new(), Load::new());
        let start = Instant::now();
        for _ in 0..PASSED_OVER {
            far.compared(false);
        }
        let due = |after| {
            let fastest = Fastest::of([&near.pace, &far.pace].into_iter());
            far.is_due(start + after, DECAY, fastest)
        };
        assert!(due(2 * DECAY));
        near.pace.looked(5 * MS);
        far.pace.looked(50 * MS);
        assert!(!due(2 * DECAY));
        assert!(due(31 * DECAY), "a look may be slow for reasons of its own");
        far.pace.looked(5 * MS);
        assert!(due(2 * DECAY));
    }

    #[test]
    fn calls_under_way_cost() {
        let (load, now) = (Load::new(), Instant::now());
        load.given_up(10 * MS, now);
        let alone = load.now(now, DECAY).cost();
        load.begin();
        assert!((load.now(now, DECAY).cost() / alone - 2.0).abs() < 1e-9);
        load.end();
        load.given_up(5 * MS, now);
        assert_eq!(load.latency(), 10 * MS, "giving up early says nothing");
        load.given_up(50 * MS, now);
        assert_eq!(load.latency(), 50 * MS);
    }

    #[test]
    fn the_better_of_two() {
        let busy = |ms: f64, outstanding, due| Busy {
            nanos: ms * 1e6,
            outstanding,
            due,
        };
        use cmp::Ordering::{Equal, Greater, Less};
        assert_eq!(busy(3.0, 0, false).compare(busy(5.0, 0, false)), Equal, "about as fast");
        assert_eq!(busy(5.0, 1, false).compare(busy(3.0, 2, false)), Less, "and less to do");
        assert_eq!(busy(40.0, 0, false).compare(busy(4.0, 8, false)), Greater);
        assert_eq!(
            busy(40.0, 0, false).compare(busy(4.0, 10, false)),
            Less,
            "nine others are before"
        );
        assert_eq!(busy(40.0, 0, true).compare(busy(4.0, 0, false)), Less, "it is its turn");
    }
}
