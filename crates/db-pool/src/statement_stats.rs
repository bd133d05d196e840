//! The figures of prepared statements.

use db_core::Fingerprint;
use serde::{Serialize, Serializer};

/// Statements of the figures' short list.
const TOP: usize = 10;

/// A statement's figures, over all its texts and all connections that are or were open.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StatementUse {
    /// Which statement.
    #[serde(serialize_with = "as_text")]
    pub fingerprint: Fingerprint,
    /// Operations and their targets.
    pub summary: String,
    /// Runs, in this process.
    pub uses: u64,
    /// Of those, runs that found it prepared.
    pub hits: u64,
    /// Runs that prepared it on a connection.
    pub prepares: u64,
    /// Of those, on a connection that had had it before: it was pushed out, or the schema changed.
    pub again: u64,
    /// Times that it was pushed out by another one.
    pub evictions: u64,
    /// How long callers waited for it on average, milliseconds, waiting for a connection included; from a sample.
    pub mean_ms: Option<f64>,
}

fn as_text<S: Serializer>(fingerprint: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(fingerprint)
}

/// The figures of a pool's prepared statements.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StatementStats {
    /// Runs that prepared a statement.
    pub prepares: u64,
    /// Of those, on a connection that had had it before.
    pub again: u64,
    /// Statements that were pushed out of a connection's cache.
    pub evictions: u64,
    /// Statements prepared on new connections before they were handed out.
    pub warmed: u64,
    /// Different texts that are known; at most 1024, those of most use.
    pub texts: usize,
    /// How many statements each open connection holds, in the order in which they were opened.
    pub fill: Vec<usize>,
    /// Every statement that is known, the most used first.
    pub statements: Vec<StatementUse>,
}

impl StatementStats {
    /// The ten most used.
    pub fn top(&self) -> &[StatementUse] {
        &self.statements[..self.statements.len().min(TOP)]
    }
}

/// Counts since the start, over all connections that are or were open. Cheap to ask for, and they never go down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatementTotals {
    /// Runs that found their statement prepared.
    pub used: u64,
    /// Runs that had to prepare it first.
    pub prepared: u64,
    /// Of those, runs that prepared what had been pushed out, and pushed out another one: the cache is too small.
    pub thrashed: u64,
    /// Statements that were pushed out of a connection's cache.
    pub evicted: u64,
    /// Statements that were forgotten because the schema had changed.
    pub stale: u64,
}
