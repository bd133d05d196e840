//! What every layer's settings share: [`Mode`], duration text, and validation that reports all it finds at once.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// What a layer does with its findings.
///
/// `Observe` is the way to introduce a layer into a running service: turn it on, read what it would have done, then
/// enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The layer passes everything through and counts nothing.
    Off,
    /// The layer counts what it would have done and touches nothing.
    Observe,
    /// The layer acts.
    Enforce,
}

impl Mode {
    /// The word in a configuration file: `off`, `observe` or `enforce`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    /// Whether the layer acts on what it finds.
    pub fn enforces(self) -> bool {
        self == Self::Enforce
    }

    /// Whether the layer does nothing at all.
    pub fn is_off(self) -> bool {
        self == Self::Off
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings that can't be used: every violation, not only the first.
///
/// The texts are for logs: whoever adds a violation about a secret masks its value first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration: {}", Joined(.keys))]
pub struct InvalidConfig {
    keys: Vec<InvalidKey>,
}

impl InvalidConfig {
    /// The error with one violation.
    pub fn one(key: impl Into<String>, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            keys: vec![InvalidKey {
                key: key.into(),
                value: value.into(),
                allowed: allowed.into(),
            }],
        }
    }

    /// All violations, in the order in which they were found; never empty.
    pub fn keys(&self) -> &[InvalidKey] {
        &self.keys
    }
}

/// One setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidKey {
    /// The full name, for example `pool.max_connections`.
    pub key: String,
    /// The value as it was given; `***` for a secret.
    pub value: String,
    /// What would have been accepted, for example `1..=10000`.
    pub allowed: String,
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: allowed is {}", self.key, self.value, self.allowed)
    }
}

struct Joined<'a>(&'a [InvalidKey]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, key) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            key.fmt(f)?;
        }
        Ok(())
    }
}

/// A value with an order and a text, so that a range check can say what it saw.
pub trait Quantity: PartialOrd {
    /// The text that a configuration file would hold.
    fn show(&self) -> String;
}

macro_rules! quantity_by_display {
    ($($number:ty),*) => {$(
        impl Quantity for $number {
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

quantity_by_display!(u16, u32, u64, usize, f64);

impl Quantity for Duration {
    fn show(&self) -> String {
        duration::show(*self)
    }
}

/// Collects violations, so that one start-up shows them all.
///
/// ```
/// use db_core::config::Checks;
///
/// let mut checks = Checks::default();
/// checks.within("pool", |pool| pool.range("max_connections", &0_u32, 1..=10_000));
/// let error = checks.finish().unwrap_err();
/// assert_eq!(error.to_string(), "invalid configuration: pool.max_connections = 0: allowed is 1..=10000");
/// ```
#[derive(Debug, Default)]
pub struct Checks {
    prefix: String,
    found: Vec<InvalidKey>,
}

impl Checks {
    /// Runs `checks` with `section.` before each key that they name; sections nest, an empty one adds nothing.
    pub fn within(&mut self, section: &str, checks: impl FnOnce(&mut Self)) {
        let outer = self.prefix.len();
        if !section.is_empty() {
            self.prefix.push_str(section);
            self.prefix.push('.');
        }
        checks(self);
        self.prefix.truncate(outer);
    }

    /// `value` lies in `allowed`; NaN never does.
    pub fn range<Q: Quantity>(&mut self, key: &str, value: &Q, allowed: RangeInclusive<Q>) {
        let ok = allowed.contains(value);
        self.check(key, ok, || {
            (
                value.show(),
                format!("{}..={}", allowed.start().show(), allowed.end().show()),
            )
        });
    }

    /// `value` is `minimum` or more.
    pub fn at_least<Q: Quantity>(&mut self, key: &str, value: &Q, minimum: &Q) {
        self.check(key, value >= minimum, || {
            (value.show(), format!("at least {}", minimum.show()))
        });
    }

    /// `value` is no longer than the setting `other` of the same section, whose value is `limit`.
    pub fn not_longer_than(&mut self, key: &str, value: Duration, other: &str, limit: Duration) {
        let prefix = self.prefix.clone();
        self.check(key, value <= limit, || {
            (
                value.show(),
                format!("not longer than {prefix}{other} ({})", limit.show()),
            )
        });
    }

    /// Anything else: `ok`, or the violation is noted with `value` and `allowed` as given.
    pub fn require(&mut self, key: &str, value: impl fmt::Display, ok: bool, allowed: impl fmt::Display) {
        self.check(key, ok, || (value.to_string(), allowed.to_string()));
    }

    /// Adds the violations of another validation, whose keys are already full names.
    pub fn merge(&mut self, other: InvalidConfig) {
        self.found.extend(other.keys);
    }

    /// All violations as one error, if there were any.
    pub fn finish(self) -> Result<(), InvalidConfig> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(InvalidConfig { keys: self.found })
        }
    }

    fn check(&mut self, key: &str, ok: bool, texts: impl FnOnce() -> (String, String)) {
        if !ok {
            let (value, allowed) = texts();
            self.found.push(InvalidKey {
                key: format!("{}{key}", self.prefix),
                value,
                allowed,
            });
        }
    }
}

pub mod duration {
    //! Durations as text with a unit: `500ms`, `2m 10s`. A bare number is refused, since nobody remembers its unit.
    //!
    //! Use as `#[serde(with = "db_core::config::duration")]`, and [`or_off`] for an `Option`.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// The text of a duration.
    pub fn show(duration: Duration) -> String {
        humantime::format_duration(duration).to_string()
    }

    /// The duration of a text.
    pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
        humantime::parse_duration(text.trim()).map_err(|_| InvalidDuration)
    }

    /// A text that is not a duration.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
    #[error("not a duration with a unit, such as 500ms, 5s or 10m")]
    pub struct InvalidDuration;

    /// For serde.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// For serde.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// An optional duration: `off`, `never` and `0s` are `None`, and `None` is written as `off`.
    pub mod or_off {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer, parse};

        /// For serde.
        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_str("off"),
            }
        }

        /// For serde.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            let text = String::deserialize(deserializer)?;
            if matches!(text.trim(), "off" | "never") {
                return Ok(None);
            }
            let duration = parse(&text).map_err(D::Error::custom)?;
            Ok(Some(duration).filter(|duration| !duration.is_zero()))
        }
    }
}
