//! The settings of the layer.

use db_core::{
    QueryClass,
    config::{Checks, Mode, duration},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Classes that an application may add.
const CUSTOM_CLASSES: usize = 64;

/// When a lease that is not given back is called a leak, and what is done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeakConfig {
    /// Default `observe`: reports, and takes nothing away; `enforce` reclaims; `off` notes nothing at all.
    pub mode: Mode,
    /// A lease of the classes instant, fast and normal, or of a custom one that is not listed, is suspect when it is out
    /// for longer. Default 30 s (six times the longest of their own limits), 1ms..=24h.
    #[serde(with = "duration")]
    pub threshold: Duration,
    /// The same for the class slow. Default 90 s (own choice: six times the class's own limit), 1ms..=24h.
    #[serde(with = "duration")]
    pub slow_threshold: Duration,
    /// The same for the class batch. Default `off`: bulk work may take as long as it takes.
    #[serde(with = "duration::or_off")]
    pub batch_threshold: Option<Duration>,
    /// The same for the application's own classes, by name; at most 64. Default none.
    pub custom: BTreeMap<String, Threshold>,
    /// In `enforce` mode a suspect is taken back once it is out for longer than this and its threshold; a class without a
    /// threshold never. Default 5 min, 1ms..=24h.
    #[serde(with = "duration")]
    pub reclaim_after: Duration,
    /// Whether a task that holds a lease, leaves it unused and waits for another one of an exhausted pool is refused.
    /// Default `enforce`; `observe` tells about it. Without effect when `mode` is `off`.
    pub nested: Mode,
    /// How long such a task waits before it is refused. Default 100 ms (own choice: long enough for a lease that is only
    /// between two statements to be used again), 2ms..=1h.
    #[serde(with = "duration")]
    pub nested_wait: Duration,
    /// The share of leases that keep a backtrace of how they were asked for, besides those of sites that were suspect
    /// before. Default 0 (own choice: one costs a few microseconds), 0..=1.
    pub backtrace_sample: f64,
}

/// When a lease is suspect; `off` (`None`) is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Threshold(#[serde(with = "duration::or_off")] pub Option<Duration>);

impl Default for LeakConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            threshold: Duration::from_secs(30),
            slow_threshold: Duration::from_secs(90),
            batch_threshold: None,
            custom: BTreeMap::new(),
            reclaim_after: Duration::from_secs(300),
            nested: Mode::Enforce,
            nested_wait: Duration::from_millis(100),
            backtrace_sample: 0.0,
        }
    }
}

impl LeakConfig {
    /// When a lease of this class is suspect; `None` is never.
    pub fn threshold_of(&self, class: QueryClass) -> Option<Duration> {
        match class {
            QueryClass::Slow => Some(self.slow_threshold),
            QueryClass::Batch => self.batch_threshold,
            QueryClass::Custom(name) => match self.custom.get(name) {
                Some(Threshold(threshold)) => *threshold,
                None => Some(self.threshold),
            },
            _ => Some(self.threshold),
        }
    }

    /// When a lease of this class is taken back; `None` is never.
    pub fn reclaim_of(&self, class: QueryClass) -> Option<Duration> {
        self.threshold_of(class)
            .map(|threshold| threshold.max(self.reclaim_after))
    }

    /// The shortest of the times that the watch has to keep.
    pub(crate) fn shortest(&self) -> Duration {
        let custom = self.custom.values().filter_map(|threshold| threshold.0);
        let own = [self.threshold, self.slow_threshold, self.reclaim_after];
        let all = own.into_iter().chain(self.batch_threshold).chain(custom);
        all.min().unwrap_or(self.threshold)
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("threshold", &self.threshold, MS..=DAY);
            c.range("slow_threshold", &self.slow_threshold, MS..=DAY);
            if let Some(threshold) = self.batch_threshold {
                c.range("batch_threshold", &threshold, MS..=DAY);
            }
            let count = self.custom.len();
            let few = count <= CUSTOM_CLASSES;
            c.require("custom", format!("{count} classes"), few, "at most 64 classes");
            c.within("custom", |c| {
                for (name, threshold) in &self.custom {
                    if let Some(threshold) = threshold.0 {
                        c.range(&name.escape_debug().to_string(), &threshold, MS..=DAY);
                    }
                }
            });
            c.range("reclaim_after", &self.reclaim_after, MS..=DAY);
            let nested = 2 * MS..=Duration::from_secs(3600);
            c.range("nested_wait", &self.nested_wait, nested);
            c.range("backtrace_sample", &self.backtrace_sample, 0.0..=1.0);
        });
    }
}
