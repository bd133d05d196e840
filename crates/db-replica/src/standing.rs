//! Whether a node gets reads: bans with hysteresis, as one transition function.

use crate::config::ReplicaConfig;
use db_core::BanReason;
use std::time::Duration;

/// Good looks in a row after which a node that was unreachable serves again.
const GOOD_LOOKS: u32 = 2;

/// Whether a node gets reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// Nothing is known yet.
    #[default]
    Joining,
    /// It gets reads.
    Serving,
    /// It gets none.
    Banned {
        /// Why.
        reason: BanReason,
        /// Good looks since the ban.
        good: u32,
    },
    /// It is the primary, or says so: it gets reads only in place of replicas.
    Primary,
}

/// What one look at a node found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    /// It did not answer.
    Unreachable,
    /// It belongs to another cluster.
    Stranger,
    /// It takes writes.
    Writable,
    /// It follows, so far behind.
    Standby { lag: Duration, bytes: u64 },
}

impl Standing {
    pub(crate) fn after(self, look: Look, config: &ReplicaConfig) -> Self {
        let banned = |reason| Self::Banned { reason, good: 0 };
        let (lag, bytes) = match look {
            Look::Unreachable => return banned(BanReason::Unreachable),
            Look::Stranger => return banned(BanReason::OtherCluster),
            Look::Writable => return Self::Primary,
            Look::Standby { lag, bytes } => (lag, bytes),
        };
        // Half of the limit on the way back, so that a lag around the limit does not flap.
        let within = |share: u32| {
            lag <= config.max_lag / share
                && (config.max_lag_bytes == 0 || bytes <= config.max_lag_bytes / u64::from(share))
        };
        match self {
            Self::Joining | Self::Serving | Self::Primary if within(1) => Self::Serving,
            Self::Joining | Self::Serving | Self::Primary => banned(BanReason::Lag),
            Self::Banned { .. } if !within(2) => banned(BanReason::Lag),
            Self::Banned {
                reason: BanReason::Unreachable,
                good,
            } if good + 1 < GOOD_LOOKS => Self::Banned {
                reason: BanReason::Unreachable,
                good: good + 1,
            },
            Self::Banned { .. } => Self::Serving,
        }
    }

    pub(crate) fn serves(self) -> bool {
        self == Self::Serving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn standby(ms: u32) -> Look {
        Look::Standby { lag: ms * MS, bytes: 0 }
    }

    fn walk(looks: &[Look]) -> Vec<bool> {
        let config = ReplicaConfig {
            max_lag: 1000 * MS,
            ..ReplicaConfig::default()
        };
        let mut standing = Standing::default();
        let mut step = |look: &Look| {
            standing = standing.after(*look, &config);
            standing.serves()
        };
        looks.iter().map(&mut step).collect()
    }

    #[test]
    fn a_lag_around_the_limit_does_not_flap() {
        let looks = [
            standby(900),
            standby(1100),
            standby(900),
            standby(600),
            standby(500),
            standby(900),
        ];
        assert_eq!(walk(&looks), [true, false, false, false, true, true]);
    }

    #[test]
    fn one_good_look_after_silence_is_not_enough() {
        let looks = [
            standby(0),
            Look::Unreachable,
            standby(0),
            Look::Unreachable,
            standby(0),
            standby(0),
        ];
        assert_eq!(walk(&looks), [true, false, false, false, false, true]);
    }

    #[test]
    fn roles_change() {
        let looks = [standby(0), Look::Writable, standby(0), Look::Stranger, standby(0)];
        assert_eq!(walk(&looks), [true, false, true, false, true]);
    }

    #[test]
    fn bytes_count_where_a_limit_is_set() {
        let config = ReplicaConfig {
            max_lag_bytes: 100,
            ..ReplicaConfig::default()
        };
        let behind = |bytes| Look::Standby {
            lag: Duration::ZERO,
            bytes,
        };
        let banned = Standing::Serving.after(behind(101), &config);
        assert!(!banned.serves());
        assert!(!banned.after(behind(51), &config).serves());
        assert!(banned.after(behind(50), &config).serves());
    }
}
