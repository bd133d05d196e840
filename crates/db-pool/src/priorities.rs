//! The settings of priorities.

use db_core::{
    Priority,
    config::{Checks, duration},
};
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// As `max_connections`.
const MOST: u32 = 10_000;

/// What one priority has of the budget. Defaults from the report's four pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ShareConfig {
    /// Connections that the others leave free for it, 0..=10000; all floors together are scaled down to half of the
    /// budget where they don't fit.
    pub floor: u32,
    /// Connections that it uses at most while others wait, 1..=10000; it borrows what is free beyond. Scaled down where
    /// the largest ceiling is above the budget.
    pub ceiling: u32,
    /// Connections that less urgent ones which have their floor leave free for it, however many it uses, 0..=10000; never
    /// more than the floor, and scaled as it is. What is lent comes back only when its query ends: those who find the
    /// floor in use take these meanwhile.
    pub spare: u32,
}

impl ShareConfig {
    const CRITICAL: Self = Self::new(3, 10, 2);
    const HIGH: Self = Self::new(5, 20, 0);
    const NORMAL: Self = Self::new(5, 30, 0);
    const BACKGROUND: Self = Self::new(2, 10, 0);

    const fn new(floor: u32, ceiling: u32, spare: u32) -> Self {
        Self { floor, ceiling, spare }
    }
}

/// The keys that a file names; the others keep the default of their own priority.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    floor: Option<u32>,
    ceiling: Option<u32>,
    spare: Option<u32>,
}

/// Reads one priority's keys over its defaults.
macro_rules! over {
    ($($name:ident, $default:ident;)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ShareConfig, D::Error> {
            let given = Given::deserialize(deserializer)?;
            Ok(ShareConfig {
                floor: given.floor.unwrap_or(ShareConfig::$default.floor),
                ceiling: given.ceiling.unwrap_or(ShareConfig::$default.ceiling),
                spare: given.spare.unwrap_or(ShareConfig::$default.spare),
            })
        }
    )*};
}

over! {
    critical, CRITICAL;
    high, HIGH;
    normal, NORMAL;
    background, BACKGROUND;
}

/// How the priorities share one budget of connections.
///
/// Floors and ceilings default to the sizes of the report's four pools: 3 to 10, 5 to 20, 5 to 30 and 2 to 10.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrioritiesConfig {
    /// Default floor 3, ceiling 10, spare 2 (by simulation: bursts beyond the floor wait half as long, for a tenth of the
    /// others' throughput on ten connections).
    #[serde(deserialize_with = "critical")]
    pub critical: ShareConfig,
    /// Default floor 5, ceiling 20, spare 0.
    #[serde(deserialize_with = "high")]
    pub high: ShareConfig,
    /// Default floor 5, ceiling 30, spare 0.
    #[serde(deserialize_with = "normal")]
    pub normal: ShareConfig,
    /// Default floor 2, ceiling 10, spare 0.
    #[serde(deserialize_with = "background")]
    pub background: ShareConfig,
    /// A priority that waits and was not served for so long goes first, once. Default 1 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub ageing: Duration,
    /// A floor is held back for so long after the last call of its priority. Default 10 s (own choice: a service
    /// without priorities loses nothing to floors), 1ms..=1h.
    #[serde(with = "duration")]
    pub reserve_for: Duration,
}

impl Default for PrioritiesConfig {
    fn default() -> Self {
        Self {
            critical: ShareConfig::CRITICAL,
            high: ShareConfig::HIGH,
            normal: ShareConfig::NORMAL,
            background: ShareConfig::BACKGROUND,
            ageing: Duration::from_secs(1),
            reserve_for: Duration::from_secs(10),
        }
    }
}

impl PrioritiesConfig {
    /// In the order of [`Priority::index`].
    pub(crate) fn all(&self) -> [ShareConfig; 4] {
        [self.critical, self.high, self.normal, self.background]
    }

    /// Notes every setting that can't be used.
    pub(crate) fn validate(&self, checks: &mut Checks) {
        for (priority, share) in Priority::ALL.into_iter().zip(self.all()) {
            checks.within(priority.name(), |c| {
                c.range("floor", &share.floor, 0..=share.ceiling);
                c.range("ceiling", &share.ceiling, 1..=MOST);
                c.range("spare", &share.spare, 0..=MOST);
            });
        }
        checks.range("ageing", &self.ageing, MS..=HOUR);
        checks.range("reserve_for", &self.reserve_for, MS..=HOUR);
    }
}
