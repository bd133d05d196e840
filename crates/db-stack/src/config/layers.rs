//! Settings of the layers, so that a configuration file written today stays valid when a layer arrives.

use std::time::Duration;

use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// How the server is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Default `enforce`; `observe` probes and gates no call.
    pub mode: Mode,
    /// The time between two probes. Default 10 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How long a probe may take. Default 1 s (own choice), 1ms..=`interval`.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
        }
    }
}

/// Declares `validate` for a section.
macro_rules! validated {
    ($($section:ty, |$self:ident, $checks:ident| $body:block)*) => {$(
        impl $section {
            /// Notes every setting that can't be used, with `prefix.` before its name.
            pub fn validate(&self, prefix: &str, checks: &mut Checks) {
                let $self = self;
                checks.within(prefix, |$checks| $body);
            }
        }
    )*};
}

validated! {
    HealthConfig, |section, c| {
        c.range("interval", &section.interval, MS..=HOUR);
        c.at_least("timeout", &section.timeout, &MS);
        c.not_longer_than("timeout", section.timeout, "interval", section.interval);
    }
}
