//! What is read when somebody looks, rather than told when it happens: gauges, and the counts that layers keep anyway.

use crate::registry::Id;

/// Reads the figures of the layers. Called at each scrape, never on the path of a call.
pub trait Read: Send + Sync + 'static {
    /// Hands every figure to `readings`.
    fn read(&self, readings: &mut Readings);
}

/// The figures of one moment.
#[derive(Debug, Default)]
pub struct Readings {
    pub(crate) gauges: Vec<(Id, Vec<String>, f64)>,
    pub(crate) totals: Vec<(Id, Vec<String>, u64)>,
    pub(crate) pool: Option<PoolReading>,
}

/// The pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolReading {
    /// Leases held by callers.
    pub used: u32,
    /// Connections in the hot set.
    pub idle: u32,
    /// Connections being opened.
    pub opening: u32,
    /// Connections being made clean.
    pub quarantined: u32,
    /// Connections lent to the inner sqlx pool.
    pub lent: u32,
    /// Callers that wait.
    pub waiting: u32,
    /// The most connections that may be open.
    pub max: u32,
    /// Connections that are kept open.
    pub min: u32,
}

impl PoolReading {
    /// Open connections.
    pub(crate) fn open(&self) -> u32 {
        self.used + self.idle + self.quarantined + self.lent
    }

    /// What callers can still get: idle connections, and those that may be opened yet.
    pub(crate) fn free(&self) -> u32 {
        self.idle + self.max.saturating_sub(self.open() + self.opening)
    }
}

impl Readings {
    /// A figure that goes up and down; `labels` in the order of the registry.
    pub fn gauge(&mut self, id: Id, labels: &[&str], value: f64) {
        self.gauges.push((id, owned(labels), value));
    }

    /// A count since the start.
    pub fn total(&mut self, id: Id, labels: &[&str], value: u64) {
        self.totals.push((id, owned(labels), value));
    }

    /// The pool.
    pub fn pool(&mut self, pool: PoolReading) {
        self.pool = Some(pool);
    }
}

pub(crate) fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}
