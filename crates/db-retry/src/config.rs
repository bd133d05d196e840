//! The settings of the layer.

use crate::backoff::{BackoffPolicy, Decorrelated, Delays, Exponential};
use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// How pauses grow and spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Strategy {
    /// [`Exponential`]: a growing pause, longer or shorter by a share of itself.
    #[default]
    Exponential,
    /// [`Decorrelated`]: anything between the base and three times the pause before. Ignores `multiplier` and `jitter`.
    Decorrelated,
}

/// When a failed call is tried again. Times are text with a unit in a file (`"50ms"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Default `enforce`; `observe` repeats nothing and counts the retries that it would have made.
    pub mode: Mode,
    /// Attempts in total, the first one included. Default 3 (the report), 1..=10.
    pub max_attempts: u32,
    /// Default `exponential`.
    pub strategy: Strategy,
    /// The pause before the second attempt, after the connection failed. Default 50 ms (own choice: the report's 500 ms
    /// is longer than most callers wait), 1ms..=`cap`.
    #[serde(with = "duration")]
    pub base_delay: Duration,
    /// The same after a deadlock or serialization failure, which take as long as a transaction to pass. Default 20 ms
    /// (own choice), 1ms..=`cap`.
    #[serde(with = "duration")]
    pub contention_delay: Duration,
    /// The same when the server has too little of something. Default 250 ms (own choice: smithy's 1 s for overload
    /// would leave most deadlines no second try), 1ms..=`cap`.
    #[serde(with = "duration")]
    pub overload_delay: Duration,
    /// Each pause is this many times the one before. Default 2.0 (the report), 1..=10.
    pub multiplier: f64,
    /// Each pause is longer or shorter by up to this share. Default 0.3 (the report), 0..=1.
    pub jitter: f64,
    /// No pause is longer. Default 1 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub cap: Duration,
    /// Retries of all callers together, as a share of their calls. Default 0.1 (Google SRE), 0..=1.
    pub budget_ratio: f64,
    /// Retries that are there when nothing has been saved yet. Default 10 (own choice), 0..=1000.
    pub budget_floor: u32,
    /// Over so long, and longer, the share holds also for a burst; unused retries expire ten times as fast. Default
    /// 10 s (finagle), 1s..=1h.
    #[serde(with = "duration")]
    pub budget_span: Duration,
    /// Whether 55P03 (`lock_timeout`, `NOWAIT`) is repeated. Default false: whoever sets a limit wants an answer.
    pub lock_timeouts: bool,
    /// Whether a pooler such as PgBouncer stands before the server, so that some of its 08P01 are its own refusals.
    /// Default false.
    pub pooler: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            max_attempts: 3,
            strategy: Strategy::Exponential,
            base_delay: Duration::from_millis(50),
            contention_delay: Duration::from_millis(20),
            overload_delay: Duration::from_millis(250),
            multiplier: 2.0,
            jitter: 0.3,
            cap: Duration::from_secs(1),
            budget_ratio: 0.1,
            budget_floor: 10,
            budget_span: Duration::from_secs(10),
            lock_timeouts: false,
            pooler: false,
        }
    }
}

impl RetryConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("max_attempts", &self.max_attempts, 1..=10);
            c.range("cap", &self.cap, MS..=HOUR);
            for (key, delay) in [
                ("base_delay", self.base_delay),
                ("contention_delay", self.contention_delay),
                ("overload_delay", self.overload_delay),
            ] {
                c.at_least(key, &delay, &MS);
                c.not_longer_than(key, delay, "cap", self.cap);
            }
            c.range("multiplier", &self.multiplier, 1.0..=10.0);
            c.range("jitter", &self.jitter, 0.0..=1.0);
            c.range("budget_ratio", &self.budget_ratio, 0.0..=1.0);
            c.range("budget_floor", &self.budget_floor, 0..=1000);
            c.range("budget_span", &self.budget_span, Duration::from_secs(1)..=HOUR);
        });
    }

    /// The pauses that these settings describe.
    pub(crate) fn backoff(&self) -> Arc<dyn BackoffPolicy> {
        let delays = Delays {
            contention: self.contention_delay,
            connection: self.base_delay,
            overload: self.overload_delay,
            cap: self.cap,
        };
        match self.strategy {
            Strategy::Exponential => Arc::new(Exponential::new(delays, self.multiplier, self.jitter)),
            Strategy::Decorrelated => Arc::new(Decorrelated::new(delays)),
        }
    }
}
