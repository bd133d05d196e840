//! The settings of the layer.

use crate::class::{self, ClassLimits, TIMES};
use db_core::{
    QueryClass,
    config::{Checks, Mode, duration},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Classes that an application may add.
const CUSTOM_CLASSES: usize = 64;
const BUILT_IN: [&str; 5] = ["instant", "fast", "normal", "slow", "batch"];

/// How long calls may take. Times are text with a unit in a file (`"500ms"`); a section that names some keys keeps the
/// defaults of its own class for the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutConfig {
    /// Default `enforce`; `observe` ends no call and tells which ones it would have ended.
    pub mode: Mode,
    /// [`QueryClass::Instant`].
    #[serde(deserialize_with = "class::instant")]
    pub instant: ClassLimits,
    /// [`QueryClass::Fast`].
    #[serde(deserialize_with = "class::fast")]
    pub fast: ClassLimits,
    /// [`QueryClass::Normal`]; also for a custom class that is not configured.
    pub normal: ClassLimits,
    /// [`QueryClass::Slow`].
    #[serde(deserialize_with = "class::slow")]
    pub slow: ClassLimits,
    /// [`QueryClass::Batch`].
    #[serde(deserialize_with = "class::batch")]
    pub batch: ClassLimits,
    /// The application's own classes by the name in [`QueryClass::Custom`]; at most 64. Default none.
    pub custom: BTreeMap<String, ClassLimits>,
    /// Limits that are learned for each statement.
    pub adaptive: AdaptiveConfig,
    /// A call that used more than this share of its limit is told as [`db_core::Event::NearLimit`]. Default 0.8 (the
    /// report), 0.1..=1.
    pub near_limit: f64,
    /// Durations are remembered over two such spans, the one that fills up and the one before. Default 60 s (own
    /// choice: a limit then follows a change within two minutes), 1s..=1h.
    #[serde(with = "duration")]
    pub window: Duration,
    /// Statements that are remembered; those unused for longest leave first. Default 2000 (own choice: about 3 KiB
    /// each), 1..=100000.
    pub max_statements: usize,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            instant: ClassLimits::INSTANT,
            fast: ClassLimits::FAST,
            normal: ClassLimits::NORMAL,
            slow: ClassLimits::SLOW,
            batch: ClassLimits::BATCH,
            custom: BTreeMap::new(),
            adaptive: AdaptiveConfig::default(),
            near_limit: 0.8,
            window: Duration::from_secs(60),
            max_statements: 2000,
        }
    }
}

/// Limits that are learned from how long a statement usually takes. They only ever tighten the limit of the class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// Default `off`; `observe` learns and tells which calls a learned limit would have ended.
    pub mode: Mode,
    /// Which share of the calls is the yardstick. Default 0.95 (the report), 0.5..=0.999.
    pub quantile: f64,
    /// The learned limit is the yardstick times this. Default 1.5 (the report), 1..=10.
    pub factor: f64,
    /// Calls that must have been seen before anything is believed. Default 100 (own choice, five of them beyond the
    /// yardstick), 20..=10000.
    pub min_samples: u32,
    /// No learned limit is shorter, unless the class's is. Default 50 ms (own choice: a pause of the network or of a
    /// checkpoint is not the statement's fault), 1ms..=24h.
    #[serde(with = "duration")]
    pub floor: Duration,
    /// When more than this share of a statement's last 64 calls passed its learned limit, the limit doubles. Default
    /// 0.05 (own choice: what lies beyond the yardstick), 0.01..=0.5.
    pub widen_share: f64,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            quantile: 0.95,
            factor: 1.5,
            min_samples: 100,
            floor: Duration::from_millis(50),
            widen_share: 0.05,
        }
    }
}

impl TimeoutConfig {
    /// The limits of a class; those of `normal` for one that is not configured.
    pub fn limits(&self, class: QueryClass) -> ClassLimits {
        match class {
            QueryClass::Instant => self.instant,
            QueryClass::Fast => self.fast,
            QueryClass::Slow => self.slow,
            QueryClass::Batch => self.batch,
            QueryClass::Custom(name) => self.custom.get(name).copied().unwrap_or(self.normal),
            _ => self.normal,
        }
    }

    /// The longest timeout of any class: with a margin, the server's own `statement_timeout`.
    pub fn longest(&self) -> Duration {
        let built_in = [&self.instant, &self.fast, &self.normal, &self.slow, &self.batch];
        let all = built_in.into_iter().chain(self.custom.values());
        all.map(|limits| limits.timeout).max().unwrap_or_default()
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            self.instant.validate("instant", c);
            self.fast.validate("fast", c);
            self.normal.validate("normal", c);
            self.slow.validate("slow", c);
            self.batch.validate("batch", c);
            let count = self.custom.len();
            c.require(
                "custom",
                format!("{count} classes"),
                count <= CUSTOM_CLASSES,
                "at most 64 classes",
            );
            c.within("custom", |c| {
                for (name, limits) in &self.custom {
                    let shown = name.escape_debug().to_string();
                    c.require(
                        &shown,
                        "(name)",
                        is_class_name(name),
                        "a name of [a-z0-9_-] that is not built in",
                    );
                    limits.validate(&shown, c);
                }
            });
            self.adaptive.validate("adaptive", c);
            c.range("near_limit", &self.near_limit, 0.1..=1.0);
            c.range(
                "window",
                &self.window,
                Duration::from_secs(1)..=Duration::from_secs(3600),
            );
            c.range("max_statements", &self.max_statements, 1..=100_000);
        });
    }
}

impl AdaptiveConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("quantile", &self.quantile, 0.5..=0.999);
            c.range("factor", &self.factor, 1.0..=10.0);
            c.range("min_samples", &self.min_samples, 20..=10_000);
            c.range("floor", &self.floor, TIMES);
            c.range("widen_share", &self.widen_share, 0.01..=0.5);
        });
    }
}

fn is_class_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) && !BUILT_IN.contains(&name)
}
