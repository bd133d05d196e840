//! How busy a node is: peak-sensitive latency times outstanding calls.

use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// What a node counts as before anything is known.
const UNKNOWN: Duration = Duration::from_millis(1);
/// How much of a rise one call counts for. All of it (linkerd, finagle) would send everybody to a node that is ten times
/// slower whenever the other one hiccups.
const RISE: f64 = 0.25;

/// The latency of a node as an average that follows a rise within some calls and a fall slowly, and the number of calls
/// under way.
#[derive(Debug)]
pub(crate) struct Load {
    outstanding: AtomicU64,
    latency: Mutex<Latency>,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    nanos: f64,
    at: Instant,
}

impl Latency {
    /// The average at `now`, if nothing has been measured since: an unused node is forgotten, and so tried again.
    fn decayed(self, now: Instant, decay: Duration) -> f64 {
        let idle = now.saturating_duration_since(self.at);
        self.nanos * (-idle.as_secs_f64() / decay.as_secs_f64()).exp()
    }
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            outstanding: AtomicU64::new(0),
            latency: Mutex::new(Latency {
                nanos: UNKNOWN.as_nanos() as f64,
                at: Instant::now(),
            }),
        }
    }

    /// What the next call would meet.
    pub(crate) fn cost(&self, now: Instant, decay: Duration) -> f64 {
        let latency = *self.latency.lock();
        latency.decayed(now, decay) * (self.outstanding() + 1) as f64
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
    }

    /// A call was given up after so long: it would have taken longer.
    pub(crate) fn given_up(&self, after: Duration, now: Instant) {
        let after = after.as_nanos() as f64;
        let mut latency = self.latency.lock();
        if after > latency.nanos {
            *latency = Latency { nanos: after, at: now };
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
        let later = load.cost(now + 3 * DECAY, DECAY);
        assert!(later < 10e6, "an unused node is forgotten: {later}");

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
    fn calls_under_way_cost() {
        let (load, now) = (Load::new(), Instant::now());
        load.given_up(10 * MS, now);
        let alone = load.cost(now, DECAY);
        load.begin();
        assert!((load.cost(now, DECAY) / alone - 2.0).abs() < 1e-9);
        load.end();
        load.given_up(5 * MS, now);
        assert_eq!(load.latency(), 10 * MS, "giving up early says nothing");
        load.given_up(50 * MS, now);
        assert_eq!(load.latency(), 50 * MS);
    }
}
