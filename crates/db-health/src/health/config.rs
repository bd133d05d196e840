//! The settings of the monitor, the report and readiness.

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr, time::Duration};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// A transaction id this old is past the point where the server vacuums with all its might (`vacuum_failsafe_age`).
pub(crate) const FAILSAFE_AGE: u64 = 1_600_000_000;

/// How the server is watched, and when that is worth a word. Times are text with a unit in a file (`"10s"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Default `enforce`; `observe` watches and alerts, and readiness is never refused; `off` does not watch. A report
    /// can be asked for in any case.
    pub mode: Mode,
    /// The time between two probes of the monitor, give or take a fifth; a fifth of it after a failed one, until there
    /// have been `alert_after`. Default 10 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How long a probe may take. Default 1 s (own choice), 1ms..=`interval`.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// How long a report may take in all. Default 2 s (own choice: Kubernetes gives a probe 1 s unless told otherwise,
    /// and a report is no probe), 10ms..=1h.
    #[serde(with = "duration")]
    pub report_timeout: Duration,
    /// How often the monitor makes a report of its own where nobody else has asked for one, so that metrics know of every
    /// check. Default 1 m (own choice), 0s..=24h; 0 leaves it to those who ask.
    #[serde(with = "duration")]
    pub report_every: Duration,
    /// So many failed probes in a row are an alert, and with no other sign of life make the service unready. Default 3
    /// (Kubernetes' `failureThreshold`), 1..=100.
    pub alert_after: u32,
    /// The service is unready when the breaker has let nothing through for so long, or nothing has succeeded for so long.
    /// Default 10 s (own choice: longer than a restart), 1ms..=1h.
    #[serde(with = "duration")]
    pub unready_after: Duration,
    /// A runtime whose heartbeat, one a second, is late by more is not alive. Default 10 s (own choice), 1s..=1h.
    #[serde(with = "duration")]
    pub stalled_after: Duration,
    /// Tables that must be readable, with a comma in between: `orders, audit.entries`. Written as in `pg_class`, without
    /// quotes. Default none, at most 50.
    pub critical_tables: Tables,
    /// With this share of the connections in use, and callers waiting, the pool is degraded. Default 0.9 (the report),
    /// 0.1..=1.
    pub pool_saturation: f64,
    /// With this share of the recent calls failed, calls are degraded. Default 0.05 (the report), 0.001..=1.
    pub failure_rate: f64,
    /// With this share of the recent calls slower than their class alerts at, calls are degraded. Default 0.1 (own
    /// choice), 0.001..=1.
    pub slow_rate: f64,
    /// A lease that is out for longer may be leaked. Default 60 s (the report), 1ms..=24h.
    #[serde(with = "duration")]
    pub lease: Duration,
    /// A standby further behind is degraded. Default 10 s (own choice), 1ms..=24h.
    #[serde(with = "duration")]
    pub lag: Duration,
    /// A transaction open for longer is degraded. Default 5 m (own choice), 1ms..=24h.
    #[serde(with = "duration")]
    pub transaction: Duration,
    /// The age of the oldest transaction id that is degraded; at 1,600,000,000 (`vacuum_failsafe_age`) it is unhealthy.
    /// Default 1,000,000,000 (own choice: five times `autovacuum_freeze_max_age`), 1000000..=1600000000.
    pub xid_age: u64,
    /// With this share of the server's connections taken it is degraded. Default 0.8 (own choice), 0.1..=1.
    pub connections: f64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            report_timeout: Duration::from_secs(2),
            report_every: Duration::from_secs(60),
            alert_after: 3,
            unready_after: Duration::from_secs(10),
            stalled_after: Duration::from_secs(10),
            critical_tables: Tables::default(),
            pool_saturation: 0.9,
            failure_rate: 0.05,
            slow_rate: 0.1,
            lease: Duration::from_secs(60),
            lag: Duration::from_secs(10),
            transaction: Duration::from_secs(300),
            xid_age: 1_000_000_000,
            connections: 0.8,
        }
    }
}

impl HealthConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        let day = 24 * HOUR;
        checks.within(prefix, |c| {
            c.range("interval", &self.interval, MS..=HOUR);
            c.at_least("timeout", &self.timeout, &MS);
            c.not_longer_than("timeout", self.timeout, "interval", self.interval);
            c.range("report_timeout", &self.report_timeout, 10 * MS..=HOUR);
            c.range("report_every", &self.report_every, Duration::ZERO..=day);
            c.range("alert_after", &self.alert_after, 1..=100);
            c.range("unready_after", &self.unready_after, MS..=HOUR);
            c.range("stalled_after", &self.stalled_after, 1000 * MS..=HOUR);
            c.require(
                "critical_tables",
                &self.critical_tables,
                self.critical_tables.are_valid(),
                Tables::ALLOWED,
            );
            c.range("pool_saturation", &self.pool_saturation, 0.1..=1.0);
            c.range("failure_rate", &self.failure_rate, 0.001..=1.0);
            c.range("slow_rate", &self.slow_rate, 0.001..=1.0);
            c.range("lease", &self.lease, MS..=day);
            c.range("lag", &self.lag, MS..=day);
            c.range("transaction", &self.transaction, MS..=day);
            c.range("xid_age", &self.xid_age, 1_000_000..=FAILSAFE_AGE);
            c.range("connections", &self.connections, 0.1..=1.0);
        });
    }
}

/// Names of tables, as one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(Vec<String>);

impl Tables {
    /// The most tables that are looked at.
    const MOST: usize = 50;
    const ALLOWED: &str = "at most 50 names, `table` or `schema.table`, of at most 63 bytes, with commas in between";

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    fn are_valid(&self) -> bool {
        let plain = |part: &str| (1..=63).contains(&part.len()) && !part.chars().any(char::is_control);
        self.0.len() <= Self::MOST
            && self
                .0
                .iter()
                .all(|name| name.split('.').count() <= 2 && name.split('.').all(plain))
    }
}

impl<S: Into<String>> FromIterator<S> for Tables {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

impl FromStr for Tables {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl Serialize for Tables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().unwrap_or_default())
    }
}
