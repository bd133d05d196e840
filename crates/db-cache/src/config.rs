//! The settings of the cache.

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};
use std::{ops::RangeInclusive, time::Duration};

pub(crate) const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

/// Whether and how answers are kept. Nothing is kept for a caller who does not ask for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Default `enforce`: whoever asks for it is served from the cache. `observe` counts what would have been a hit and
    /// runs every query; `off` runs every query.
    pub mode: Mode,
    /// How long an answer is fresh when the call names no time. Default 30 s (the long end of what experts choose),
    /// 1ms..=24h.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// An answer's time is shortened by up to this share, at random, so that answers that were read together do not
    /// expire together. Default 0.1 (own choice), 0..=0.5.
    pub jitter: f64,
    /// The longest time for which "no such row" is believed. Default 1 s (own choice), 1ms..=24h.
    #[serde(with = "duration")]
    pub negative_ttl: Duration,
    /// For how long after its time an answer is still given while one caller reads it again. Default off (own choice:
    /// the time that a caller names is a promise), 1ms..=24h.
    #[serde(with = "duration::or_off")]
    pub stale_while_revalidate: Option<Duration>,
    /// For how long after its time an answer is still given while the database can't be reached. Default off (own
    /// choice, as above; 5 min is common), 1ms..=24h.
    #[serde(with = "duration::or_off")]
    pub stale_if_error: Option<Duration>,
    /// What all answers may take together, in MiB. Default 64 (own choice), 1..=1048576.
    pub max_mib: u64,
    /// What one answer may take, in KiB; larger ones are not kept. Default 1024 (own choice), 1..=1048576, and at most a
    /// sixteenth of `max_mib`.
    pub max_entry_kib: u64,
    /// Hear of other writers, over one connection beside the pool. Default true. Without it they are noticed when an
    /// answer's time is over. It needs a direct connection: a pooler in transaction mode swallows LISTEN.
    pub listen: bool,
    /// How often the listening connection is tested; an answer is given for no longer than two such spans after it
    /// last proved alive. Default 1 s (own choice), 10ms..=1h.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// How often the schema is compared with what is known of it. Default 5 s (own choice), 10ms..=24h.
    #[serde(with = "duration")]
    pub schema_check: Duration,
    /// For how long the tables of a write whose outcome nobody knows are not cached: it may still take effect. Default
    /// 30 s (own choice: longer than the server's keep-alives need to notice a dead client), 1ms..=24h.
    #[serde(with = "duration")]
    pub in_doubt: Duration,
    /// Statements that are counted by fingerprint; the rest are counted together. Default 2000 (own choice), 1..=100000.
    pub max_statements: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            ttl: Duration::from_secs(30),
            jitter: 0.1,
            negative_ttl: Duration::from_secs(1),
            stale_while_revalidate: None,
            stale_if_error: None,
            max_mib: 64,
            max_entry_kib: 1024,
            listen: true,
            heartbeat: Duration::from_secs(1),
            schema_check: Duration::from_secs(5),
            in_doubt: Duration::from_secs(30),
            max_statements: 2000,
        }
    }
}

impl CacheConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        let ten_ms = Duration::from_millis(10);
        checks.within(prefix, |c| {
            c.range("ttl", &self.ttl, TIMES);
            c.range("jitter", &self.jitter, 0.0..=0.5);
            c.range("negative_ttl", &self.negative_ttl, TIMES);
            for (key, time) in [
                ("stale_while_revalidate", self.stale_while_revalidate),
                ("stale_if_error", self.stale_if_error),
            ] {
                if let Some(time) = time {
                    c.range(key, &time, TIMES);
                }
            }
            c.range("max_mib", &self.max_mib, 1..=1024 * 1024);
            c.range("max_entry_kib", &self.max_entry_kib, 1..=1024 * 1024);
            c.range("heartbeat", &self.heartbeat, ten_ms..=Duration::from_secs(3600));
            c.range("schema_check", &self.schema_check, ten_ms..=*TIMES.end());
            c.range("in_doubt", &self.in_doubt, TIMES);
            c.range("max_statements", &self.max_statements, 1..=100_000);
        });
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_mib * 1024 * 1024
    }

    pub(crate) fn max_entry_bytes(&self) -> u64 {
        (self.max_entry_kib * 1024).min(self.max_bytes() / 16)
    }
}
