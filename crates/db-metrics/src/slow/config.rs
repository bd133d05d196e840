//! The settings of the slow-query log.

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which calls are reported as slow, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowQueryConfig {
    /// Default `enforce`; `observe` counts and logs nothing.
    pub mode: Mode,
    /// A call that took longer, waiting included, is slow. Default 100 ms (the report), 0s..=1h.
    #[serde(with = "duration")]
    pub threshold: Duration,
    /// Lines in the log, and rows in the table, of one statement in one second; the others are counted. Default 10 (own
    /// choice: an outage makes everything slow), 1..=100000.
    pub per_second: u32,
    /// Whether a row for each goes to the table `slow_queries` of the migrations, over a connection of its own. Default
    /// false.
    pub table: bool,
    /// Whether the table shows arguments. They may hold secrets. Default false.
    pub arguments: bool,
    /// Entries that may wait to be written; those beyond are dropped and counted. Default 1024, 1..=100000.
    pub queue: usize,
    /// How often entries are written. Default 1 s, 1ms..=1h.
    #[serde(with = "duration")]
    pub write_every: Duration,
    /// How long the table's days are kept. Default 14 days (own choice), 1day..=3650days.
    #[serde(with = "duration")]
    pub keep: Duration,
}

impl Default for SlowQueryConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            threshold: Duration::from_millis(100),
            per_second: 10,
            table: false,
            arguments: false,
            queue: 1024,
            write_every: Duration::from_secs(1),
            keep: 14 * DAY,
        }
    }
}

impl SlowQueryConfig {
    /// From which duration on a call counts as slow.
    pub fn counted_from(&self) -> Option<Duration> {
        (!self.mode.is_off()).then_some(self.threshold)
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("threshold", &self.threshold, Duration::ZERO..=HOUR);
            c.range("per_second", &self.per_second, 1..=100_000);
            c.range("queue", &self.queue, 1..=100_000);
            c.range("write_every", &self.write_every, MS..=HOUR);
            c.range("keep", &self.keep, DAY..=3650 * DAY);
        });
    }
}
