//! Settings of transactions.

use std::time::Duration;

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How long a transaction may take, and how long it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionConfig {
    /// Default `enforce`; `observe` tells of the transactions that it would have ended.
    pub mode: Mode,
    /// The limit from BEGIN to the end of COMMIT. Default 60 s (the report), 1ms..=1h.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// How long the key of a `transaction_once` is remembered: longer than anybody keeps trying. Default 24 h (own
    /// choice), 1m..=30days.
    #[serde(with = "duration")]
    pub token_ttl: Duration,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            timeout: MINUTE,
            token_ttl: 24 * HOUR,
        }
    }
}

impl TransactionConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("timeout", &self.timeout, MS..=HOUR);
            c.range("token_ttl", &self.token_ttl, MINUTE..=30 * 24 * HOUR);
        });
    }
}
