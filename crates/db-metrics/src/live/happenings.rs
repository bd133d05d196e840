//! The last things that somebody on call would want to know.

use db_core::{CloseReason, Event, Observer};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

const MOST: usize = 60;

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Happening {
    /// Milliseconds since 1970.
    at: u64,
    what: String,
    /// How often it happened in a row.
    times: u64,
}

/// The newest ones, those that repeat as one.
#[derive(Default)]
pub(crate) struct Happenings(Mutex<VecDeque<Happening>>);

impl Happenings {
    /// The newest first.
    pub(crate) fn list(&self) -> Vec<Happening> {
        self.0.lock().iter().rev().cloned().collect()
    }

    fn note(&self, what: String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut list = self.0.lock();
        if let Some(last) = list.back_mut().filter(|last| last.what == what) {
            last.times += 1;
            last.at = at;
            return;
        }
        if list.len() == MOST {
            list.pop_front();
        }
        list.push_back(Happening { at, what, times: 1 });
    }
}

impl Observer for Happenings {
    fn event(&self, event: &Event) {
        // No message of the server or the driver: it may hold anything.
        match event {
            Event::ConnectFailed { failure, .. } => self.note(format!("connecting failed: {failure}")),
            Event::Closed {
                reason: CloseReason::Broken | CloseReason::Invalid,
                ..
            } => self.note("a connection was lost".to_owned()),
            Event::AcquireFailed { failure, .. } => self.note(format!("no connection: {failure}")),
            Event::LimitWidened { statement, .. } => self.note(format!("the learned limit of {statement} was widened")),
            Event::BreakerChanged { from, to, .. } => {
                self.note(format!("the breaker went from {} to {}", from.name(), to.name()));
            }
            Event::HealthAlert { failures, .. } => self.note(format!("{failures} health checks in a row failed")),
            Event::HealthRecovered { .. } => self.note("health checks succeed again".to_owned()),
            Event::EndpointMoved { .. } => self.note("the server is another one now".to_owned()),
            Event::LimitChanged { from, to, .. } => self.note(format!("{to} leases may be in use, {from} before")),
            Event::LeaseSuspect(suspect) => self.note(format!("a lease is out for long: {}", suspect.cause)),
            Event::LeaseRevoked(suspect) => self.note(format!("a lease was taken back: {}", suspect.cause)),
            Event::NodeBanned { node, reason } => self.note(format!("{node} gets no more reads: {}", reason.name())),
            Event::NodeServes { node } => self.note(format!("{node} gets reads")),
            Event::PrimaryMoved { node, .. } => self.note(format!("writes go to {node}")),
            Event::PrimaryLost { node } => self.note(format!("the primary {node} does not answer")),
            Event::SplitBrain { nodes, .. } => self.note(format!("{nodes} servers take writes")),
            Event::StatementsThrash { again, within, .. } => {
                self.note(format!(
                    "{again} statements were prepared again within {within:?}: the cache is too small"
                ));
            }
            Event::Reloaded => self.note("the settings were changed".to_owned()),
            Event::PoolClosed { .. } => self.note("the pool has closed".to_owned()),
            _ => {}
        }
    }
}
