//! What a class of calls is allowed.

use db_core::config::{Checks, duration};
use serde::{Deserialize, Deserializer, Serialize};
use std::{ops::RangeInclusive, time::Duration};

const MS: Duration = Duration::from_millis(1);
/// Any time that a class may name.
pub(crate) const TIMES: RangeInclusive<Duration> = MS..=Duration::from_secs(24 * 3600);

/// The limits of one query class. The defaults are the report's table:
///
/// | class | `timeout` | `alert` | `retry` | `cache_ttl` |
/// |---|---|---|---|---|
/// | instant | 200 ms | 100 ms | yes | 60 s |
/// | fast | 1 s | 500 ms | yes | 30 s |
/// | normal, and a custom one for what it leaves out | 5 s | 2 s | yes | off |
/// | slow | 15 s | 10 s | no | 300 s |
/// | batch | 120 s | 60 s | no | off |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Given")]
pub struct ClassLimits {
    /// How long a call may take: waiting for a lease, retries and execution together. 1ms..=24h.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// A call that took longer is told as [`db_core::Event::SlowCall`]. 1ms..=24h; one above `timeout` never fires.
    #[serde(with = "duration")]
    pub alert: Duration,
    /// Whether a failed call may be tried again. Read by the retry layer, not here.
    pub retry: bool,
    /// How long an answer may be kept, where caching by policy is asked for; `None` (`"off"`): not at all. Read by the
    /// cache, not here. 1ms..=24h.
    #[serde(with = "duration::or_off")]
    pub cache_ttl: Option<Duration>,
}

impl ClassLimits {
    /// Single-row look-ups.
    pub const INSTANT: Self = Self::new(200, 100, true, Some(60));
    /// Indexed queries.
    pub const FAST: Self = Self::new(1_000, 500, true, Some(30));
    /// Most queries.
    pub const NORMAL: Self = Self::new(5_000, 2_000, true, None);
    /// Reports and aggregations.
    pub const SLOW: Self = Self::new(15_000, 10_000, false, Some(300));
    /// Bulk work.
    pub const BATCH: Self = Self::new(120_000, 60_000, false, None);

    const fn new(timeout_ms: u64, alert_ms: u64, retry: bool, ttl_secs: Option<u64>) -> Self {
        Self {
            timeout: Duration::from_millis(timeout_ms),
            alert: Duration::from_millis(alert_ms),
            retry,
            cache_ttl: match ttl_secs {
                Some(secs) => Some(Duration::from_secs(secs)),
                None => None,
            },
        }
    }

    pub(crate) fn validate(&self, section: &str, checks: &mut Checks) {
        checks.within(section, |c| {
            c.range("timeout", &self.timeout, TIMES);
            c.range("alert", &self.alert, TIMES);
            if let Some(cache_ttl) = self.cache_ttl {
                c.range("cache_ttl", &cache_ttl, TIMES);
            }
        });
    }
}

impl Default for ClassLimits {
    fn default() -> Self {
        Self::NORMAL
    }
}

/// The keys that a file names; the others keep the default of their own class, not that of some other class.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default, deserialize_with = "some_duration")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    alert: Option<Duration>,
    #[serde(default)]
    retry: Option<bool>,
    #[serde(default, deserialize_with = "some_or_off")]
    cache_ttl: Option<Option<Duration>>,
}

impl Given {
    fn over(self, class: ClassLimits) -> ClassLimits {
        ClassLimits {
            timeout: self.timeout.unwrap_or(class.timeout),
            alert: self.alert.unwrap_or(class.alert),
            retry: self.retry.unwrap_or(class.retry),
            cache_ttl: self.cache_ttl.unwrap_or(class.cache_ttl),
        }
    }
}

impl From<Given> for ClassLimits {
    fn from(given: Given) -> Self {
        given.over(Self::NORMAL)
    }
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration::deserialize(deserializer).map(Some)
}

fn some_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Duration>>, D::Error> {
    duration::or_off::deserialize(deserializer).map(Some)
}

pub(crate) fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClassLimits, D::Error> {
    Ok(Given::deserialize(deserializer)?.over(ClassLimits::INSTANT))
}

pub(crate) fn fast<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClassLimits, D::Error> {
    Ok(Given::deserialize(deserializer)?.over(ClassLimits::FAST))
}

pub(crate) fn slow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClassLimits, D::Error> {
    Ok(Given::deserialize(deserializer)?.over(ClassLimits::SLOW))
}

pub(crate) fn batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClassLimits, D::Error> {
    Ok(Given::deserialize(deserializer)?.over(ClassLimits::BATCH))
}
