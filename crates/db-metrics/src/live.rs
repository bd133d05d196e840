//! What the live page shows: a sample twice a second, over the last minutes, and what happened lately.

mod happenings;
mod sample;

pub(crate) use happenings::Happenings;
pub(crate) use sample::Sample;

use crate::{meter::Shared, publish::Sums};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval},
};

/// Twice a second: what goes wrong is on the page within one second.
const ROUND: Duration = Duration::from_millis(500);
/// Four minutes.
const SAMPLES: usize = 480;

/// The samples of the last minutes. They are taken from the first time that somebody looks.
pub(crate) struct Live {
    started: AtomicBool,
    ring: Mutex<Ring>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct Ring {
    samples: VecDeque<Sample>,
    /// The number of the newest sample.
    number: u64,
}

/// What the page gets.
#[derive(Serialize)]
pub(crate) struct Picture {
    /// The number of the newest sample, to ask for those after it next time.
    number: u64,
    round_ms: u64,
    samples: Vec<Sample>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) happenings: Vec<happenings::Happening>,
    pub(crate) slow: Vec<SlowLine>,
}

/// One gauge or count of this moment.
#[derive(Serialize)]
pub(crate) struct Figure {
    name: String,
    labels: Vec<String>,
    value: f64,
}

/// A slow statement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SlowLine {
    pub(crate) fingerprint: String,
    pub(crate) summary: String,
    pub(crate) text: String,
    pub(crate) count: u64,
    pub(crate) worst_ms: f64,
    pub(crate) last_ms: f64,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            started: AtomicBool::new(false),
            ring: Mutex::default(),
            task: Mutex::default(),
        }
    }

    /// Begins to take samples, in the runtime of the caller.
    pub(crate) fn start(&self, shared: &Arc<Shared>) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(shared);
        let task = tokio::spawn(async move {
            let mut rounds = interval(ROUND);
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before: Option<(Instant, Sums)> = None;
            loop {
                rounds.tick().await;
                let Some(shared) = shared.upgrade() else { return };
                let (now, sums) = (Instant::now(), shared.publish());
                if let Some((then, before)) = &before {
                    let sample = Sample::between(before, &sums, now - *then);
                    shared.live.push(sample);
                }
                before = Some((now, sums));
            }
        });
        *self.task.lock() = Some(task.abort_handle());
    }

    fn push(&self, sample: Sample) {
        let mut ring = self.ring.lock();
        if ring.samples.len() == SAMPLES {
            ring.samples.pop_front();
        }
        ring.samples.push_back(sample);
        ring.number += 1;
    }

    /// The samples after number `since`, and this moment's figures.
    pub(crate) fn picture(&self, since: u64, sums: &Sums) -> Picture {
        let ring = self.ring.lock();
        let fresh = usize::try_from(ring.number.saturating_sub(since)).unwrap_or(usize::MAX);
        let skip = ring.samples.len().saturating_sub(fresh);
        let mut figures: Vec<_> = sums
            .figures
            .iter()
            .filter(|((id, _), _)| sample::shown(*id))
            .map(|((id, labels), value)| Figure {
                name: format!("{id:?}"),
                labels: labels.clone(),
                value: *value,
            })
            .collect();
        figures.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        Picture {
            number: ring.number,
            round_ms: ROUND.as_millis() as u64,
            samples: ring.samples.iter().skip(skip).cloned().collect(),
            figures,
            happenings: Vec::new(),
            slow: Vec::new(),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}
