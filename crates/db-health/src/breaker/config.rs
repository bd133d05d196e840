//! The settings of the breaker.

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// When calls are refused, and how the endpoint gets them back. Times are text with a unit in a file (`"500ms"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Default `enforce`; `observe` refuses nothing, probes nothing and counts how often it would have opened.
    pub mode: Mode,
    /// The breaker opens when this share of the calls in either window failed. Default 0.5 (resilience4j), 0.01..=1.
    pub failure_rate: f64,
    /// The same for calls that took longer than `slow_call`. Default 0.8 (own choice), 0.01..=1.
    pub slow_rate: f64,
    /// A call that took longer is slow; `None` (`"off"`) finds none slow. Default off: a stack with time limits has a
    /// failure where this would have a slow call. 1ms..=1h.
    #[serde(with = "duration::or_off")]
    pub slow_call: Option<Duration>,
    /// Nothing is concluded from fewer calls in a window. Default 20 (own choice: resilience4j's 100 suits RPC, not one
    /// database), 1..=10000.
    pub minimum_calls: u32,
    /// The one window: so many last calls. It sees a server that froze, where calls become few. Default 50 (own choice),
    /// `minimum_calls`..=10000.
    pub window_calls: u32,
    /// The other window: the calls of so long. It sees a share of failures under load. Default 10 s (own choice),
    /// 100ms..=1h.
    #[serde(with = "duration")]
    pub window_time: Duration,
    /// How long the breaker stays open before the first probe, at most: the wait is random between zero and this.
    /// Default 100 ms (own choice: a restart shows in one or two probes; polly's 5 s would add up to 5 s to each),
    /// 1ms..=`open_wait_cap`.
    #[serde(with = "duration")]
    pub open_wait: Duration,
    /// The wait doubles with each probe that fails, up to this. Default 500 ms (own choice: a probe is one connection,
    /// no more than the pool would dial by itself; resilience4j's 60 s is an outage of its own), 1ms..=1h.
    #[serde(with = "duration")]
    pub open_wait_cap: Duration,
    /// How long a probe may take. Default 1 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub probe_timeout: Duration,
    /// Calls that must succeed after the probe until the breaker closes, and that are let through for it. Default 3
    /// (own choice: resilience4j 10, polly 1), 1..=1000.
    pub half_open_calls: u32,
    /// The longest stay in half-open; then it is probed again. Default 10 s (own choice; resilience4j's default of for
    /// ever is its users' worst complaint), 1ms..=1h.
    #[serde(with = "duration")]
    pub half_open_limit: Duration,
    /// After closing, so many calls may run at once at first, twice as many after each quarter of `slow_start`.
    /// Default 8 (own choice: a small pool), 1..=10000.
    pub slow_start_calls: u32,
    /// How long the slow start takes; `0s` is none. Default 400 ms (own choice), 0s..=1h.
    #[serde(with = "duration")]
    pub slow_start: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            failure_rate: 0.5,
            slow_rate: 0.8,
            slow_call: None,
            minimum_calls: 20,
            window_calls: 50,
            window_time: Duration::from_secs(10),
            open_wait: Duration::from_millis(100),
            open_wait_cap: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(1),
            half_open_calls: 3,
            half_open_limit: Duration::from_secs(10),
            slow_start_calls: 8,
            slow_start: Duration::from_millis(400),
        }
    }
}

impl BreakerConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("failure_rate", &self.failure_rate, 0.01..=1.0);
            c.range("slow_rate", &self.slow_rate, 0.01..=1.0);
            if let Some(slow) = self.slow_call {
                c.range("slow_call", &slow, MS..=HOUR);
            }
            c.range("minimum_calls", &self.minimum_calls, 1..=10_000);
            let (calls, minimum) = (self.window_calls, self.minimum_calls);
            c.require(
                "window_calls",
                calls,
                (minimum..=10_000).contains(&calls),
                format_args!("minimum_calls ({minimum})..=10000"),
            );
            c.range("window_time", &self.window_time, 100 * MS..=HOUR);
            c.at_least("open_wait", &self.open_wait, &MS);
            c.not_longer_than("open_wait", self.open_wait, "open_wait_cap", self.open_wait_cap);
            c.range("open_wait_cap", &self.open_wait_cap, MS..=HOUR);
            c.range("probe_timeout", &self.probe_timeout, MS..=HOUR);
            c.range("half_open_calls", &self.half_open_calls, 1..=1000);
            c.range("half_open_limit", &self.half_open_limit, MS..=HOUR);
            c.range("slow_start_calls", &self.slow_start_calls, 1..=10_000);
            c.range("slow_start", &self.slow_start, Duration::ZERO..=HOUR);
        });
    }
}
