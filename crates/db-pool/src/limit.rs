//! The settings of the limit on leases in use.

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What moves the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LimitPolicy {
    /// Throughput: as far up as more leases bring more of it.
    Gradient,
    /// The report's rule: 10 more above the target utilization, 10 less below 30 %. Wrong for a server that is slow
    /// because it has too much to do already.
    Utilization,
}

/// How many leases may be in use at once, found out while running. It starts at `pool.max_connections`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Default `off`: `pool.max_connections` is the limit. `observe` tells what it would have done.
    pub mode: Mode,
    /// Default `gradient`.
    pub policy: LimitPolicy,
    /// The limit is never lower. Default 2 (own choice: one leases a place to whoever is not stuck), 1..=10000.
    pub min: u32,
    /// The limit is never higher, whatever `pool.max_connections` says. Default 100 (the report), `min`..=10000.
    pub absolute_max: u32,
    /// How long the throughput at one limit is measured. Default 500 ms (own choice), 10ms..=1h.
    #[serde(with = "duration")]
    pub window: Duration,
    /// For `utilization`: above it the limit grows. Default 0.7 (the report), 0.3..=1.
    pub target_utilization: f64,
    /// For `utilization`: how often it is looked at. Default 60 s (the report), 10ms..=1h.
    #[serde(with = "duration")]
    pub scale_interval: Duration,
    /// How often the server is asked what it has free. Default 1 s (own choice), 10ms..=1h.
    #[serde(with = "duration")]
    pub census_interval: Duration,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            policy: LimitPolicy::Gradient,
            min: 2,
            absolute_max: 100,
            window: Duration::from_millis(500),
            target_utilization: 0.7,
            scale_interval: Duration::from_secs(60),
            census_interval: Duration::from_secs(1),
        }
    }
}

impl LimitConfig {
    /// Notes every setting that can't be used.
    pub(crate) fn validate(&self, c: &mut Checks) {
        c.range("min", &self.min, 1..=self.absolute_max);
        c.range("absolute_max", &self.absolute_max, 1..=10_000);
        let spans = 10 * MS..=HOUR;
        c.range("window", &self.window, spans.clone());
        c.range("target_utilization", &self.target_utilization, 0.3..=1.0);
        c.range("scale_interval", &self.scale_interval, spans.clone());
        c.range("census_interval", &self.census_interval, spans);
    }
}
