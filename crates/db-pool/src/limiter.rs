//! How many leases may be in use: climbs the hill of throughput. No clock, no I/O.

use crate::limit::{LimitConfig, LimitPolicy};
use db_core::LimitReason;
use std::time::Duration;

/// A window with fewer leases says nothing.
pub(crate) const ENOUGH: u64 = 30;
/// One per cent more leases must bring at least this share of a per cent more throughput.
const WORTH: f64 = 0.3;
/// The step, as a share of the limit: it grows while the direction stays right.
const STEP: (f64, f64) = (0.1, 0.3);
/// The report's step and lower bound.
const REPORT_STEP: u32 = 10;
const REPORT_LOW: f64 = 0.3;

/// What happened at one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) took: Duration,
    /// Leases that came back.
    pub(crate) completed: u64,
    /// The time they were held, in total.
    pub(crate) held: Duration,
    /// Somebody waited for want of a place, so that the limit was what limited.
    pub(crate) full: bool,
    /// Most of our active sessions waited for locks when the server was asked last.
    pub(crate) contended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) to: u32,
    pub(crate) reason: LimitReason,
}

#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    way: Way,
    step: f64,
    /// The limit before the last step, and its throughput.
    before: Option<(u32, f64)>,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self {
            way: Way::Up,
            step: STEP.0,
            before: None,
        }
    }

    /// How long one window lasts.
    pub(crate) fn window(config: &LimitConfig) -> Duration {
        match config.policy {
            LimitPolicy::Gradient => config.window,
            LimitPolicy::Utilization => config.scale_interval,
        }
    }

    /// Where to go after this window at `limit`; never above `room`.
    pub(crate) fn decide(&mut self, config: &LimitConfig, limit: u32, room: u32, window: &Window) -> Option<Change> {
        let most = config.absolute_max.min(room).max(1);
        let least = config.min.min(most);
        let change = match config.policy {
            LimitPolicy::Gradient => self.climb(limit, most, window),
            LimitPolicy::Utilization => by_utilization(config, limit, window),
        }?;
        let to = change.to.clamp(least, most);
        (to != limit).then_some(Change { to, ..change })
    }

    fn climb(&mut self, limit: u32, most: u32, window: &Window) -> Option<Change> {
        if !window.full {
            // Not the limit's doing: nothing is learnt, nothing grows.
            *self = Self::new();
            return None;
        }
        if window.completed < ENOUGH {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of leases")]
        let throughput = window.completed as f64 / window.took.as_secs_f64().max(1e-9);
        let worth = self
            .before
            .filter(|(was, _)| *was != limit)
            .map(|(was, had)| (throughput / had.max(1e-9)).ln() / (f64::from(limit) / f64::from(was)).ln() >= WORTH);
        let before = self.way;
        self.way = match (self.way, worth) {
            _ if window.contended => Way::Down,
            (Way::Up, Some(true) | None) if limit < most => Way::Up,
            (Way::Up, _) => Way::Down,
            // Fewer leases that cost no throughput were too many.
            (Way::Down, Some(false) | None) => Way::Down,
            (Way::Down, Some(true)) => Way::Up,
        };
        self.step = if self.way == before && worth.is_some() {
            (self.step * 1.5).min(STEP.1)
        } else {
            STEP.0
        };
        self.before = Some((limit, throughput));
        let step = stride(limit, self.step);
        Some(match self.way {
            Way::Up => Change {
                to: limit.saturating_add(step),
                reason: LimitReason::Gain,
            },
            Way::Down => Change {
                to: limit.saturating_sub(step),
                reason: if window.contended {
                    LimitReason::Contention
                } else {
                    LimitReason::NoGain
                },
            },
        })
    }
}

fn stride(limit: u32, share: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a small number"
    )]
    let stride = (f64::from(limit) * share).round() as u32;
    stride.max(1)
}

/// The report's rule.
fn by_utilization(config: &LimitConfig, limit: u32, window: &Window) -> Option<Change> {
    let utilization = window.held.as_secs_f64() / (window.took.as_secs_f64() * f64::from(limit)).max(1e-9);
    let to = if utilization > config.target_utilization {
        limit.saturating_add(REPORT_STEP)
    } else if utilization < REPORT_LOW {
        limit.saturating_sub(REPORT_STEP)
    } else {
        return None;
    };
    Some(Change {
        to,
        reason: LimitReason::Utilization,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn full(throughput: f64) -> Window {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let completed = throughput as u64;
        Window {
            took: SECOND,
            completed,
            full: true,
            ..Window::default()
        }
    }

    /// The mean limit over the last half of `windows` against a server of this throughput, with noise.
    fn settle(start: u32, throughput: impl Fn(f64) -> f64, noise: f64, seed: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = LimitConfig::default();
        let (mut limiter, mut limit, mut sum) = (Limiter::new(), start, 0.0);
        for window in 0..200 {
            let made = throughput(f64::from(limit)) * (1.0 + noise * (random.f64() - 0.5));
            if let Some(change) = limiter.decide(&config, limit, 100, &full(made)) {
                limit = change.to;
            }
            assert!((config.min..=config.absolute_max).contains(&limit));
            if window >= 100 {
                sum += f64::from(limit);
            }
        }
        sum / 100.0
    }

    #[test]
    fn it_finds_the_knee_from_above_and_from_below() {
        // Linear up to 12, then every further session costs all the others.
        let knee = |n: f64| if n <= 12.0 { 100.0 * n } else { 100.0 * 12.0 * 12.0 / n };
        for start in [2, 12, 40, 100] {
            for seed in 0..20 {
                let ended = settle(start, knee, 0.04, seed);
                assert!((9.6..=14.4).contains(&ended), "from {start}, seed {seed}: {ended}");
            }
        }
    }

    #[test]
    fn a_server_without_contention_gets_all_that_is_allowed() {
        let ended = settle(4, |n| 50.0 * n, 0.04, 1);
        assert!(ended > 85.0, "{ended}");
    }

    #[test]
    fn it_never_grows_while_it_is_not_full() {
        let mut limiter = Limiter::new();
        let idle = Window {
            full: false,
            ..full(1000.0)
        };
        for _ in 0..100 {
            assert_eq!(limiter.decide(&LimitConfig::default(), 10, 100, &idle), None);
        }
    }

    #[test]
    fn locks_turn_it_down_and_the_servers_room_caps_it() {
        let mut limiter = Limiter::new();
        let locked = Window {
            contended: true,
            ..full(1000.0)
        };
        let change = limiter.decide(&LimitConfig::default(), 20, 100, &locked).unwrap();
        assert_eq!((change.to, change.reason), (18, LimitReason::Contention));
        let change = Limiter::new()
            .decide(&LimitConfig::default(), 20, 5, &full(1000.0))
            .unwrap();
        assert_eq!(change.to, 5);
    }

    #[test]
    fn the_reports_rule_is_the_reports() {
        let config = LimitConfig {
            policy: LimitPolicy::Utilization,
            ..LimitConfig::default()
        };
        let at = |share: f64| Window {
            took: SECOND,
            held: SECOND.mul_f64(20.0 * share),
            ..Window::default()
        };
        let to = |share, limit| {
            Limiter::new()
                .decide(&config, limit, 100, &at(share))
                .map(|change| change.to)
        };
        assert_eq!(to(0.8, 20), Some(30));
        assert_eq!(to(0.5, 20), None);
        assert_eq!(to(0.1, 20), Some(10));
        assert_eq!(to(0.01, 2), None);
        assert_eq!(to(20.0, 95), Some(100));
    }
}
