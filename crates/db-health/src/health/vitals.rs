//! Liveness and readiness: plain functions of what is known.

use super::config::HealthConfig;
use crate::breaker::BreakerStats;
use db_core::{BreakerCause, config::Mode};
use serde::Serialize;
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Whether the process should go on living. Never asks the database: restarting a service cures no database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Liveness {
    /// It should.
    Alive,
    /// A background task has ended that should run.
    TaskEnded,
    /// The runtime did not get round to the heartbeat.
    Stalled {
        /// How late it is, in milliseconds.
        late_ms: u64,
    },
}

impl Liveness {
    /// Whether the process should go on living.
    pub fn is_alive(&self) -> bool {
        *self == Self::Alive
    }

    /// 200 or 503.
    pub fn http_status(&self) -> u16 {
        if self.is_alive() { 200 } else { 503 }
    }
}

/// Whether the service should get traffic, as far as its database is concerned. A busy pool is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Readiness {
    /// It should.
    Ready,
    /// It is shutting down.
    Draining,
    /// Nothing has succeeded yet.
    Starting,
    /// The breaker has let nothing through for too long.
    BreakerOpen {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// Why it opened.
        #[serde(serialize_with = "cause_name")]
        cause: Option<BreakerCause>,
    },
    /// Several probes in a row have failed, and no call has succeeded either.
    NoSuccess {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// Probes that failed in a row.
        failures: u32,
    },
}

impl Readiness {
    /// Whether the service should get traffic.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    /// 200 or 503.
    pub fn http_status(&self) -> u16 {
        if self.is_ready() { 200 } else { 503 }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = Duration::from_millis;
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Draining => f.write_str("draining"),
            Self::Starting => f.write_str("nothing has succeeded yet"),
            Self::BreakerOpen { for_ms, .. } => write!(f, "the breaker has been open for {:.1?}", ms(*for_ms)),
            Self::NoSuccess { for_ms, failures } => {
                write!(f, "no success for {:.1?}, {failures} failed probes", ms(*for_ms))
            }
        }
    }
}

fn cause_name<S: serde::Serializer>(cause: &Option<BreakerCause>, serializer: S) -> Result<S::Ok, S::Error> {
    cause.map(BreakerCause::name).serialize(serializer)
}

/// What the monitor has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vitals {
    /// When the monitor began; `None` without one.
    pub(crate) watched_since: Option<Instant>,
    /// The last heartbeat.
    pub(crate) beat: Option<Instant>,
    pub(crate) draining: bool,
    last_success: Option<Instant>,
    failures: u32,
    first_failure: Option<Instant>,
    alerted: bool,
}

/// What is worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Alert { failures: u32, message: Arc<str> },
    Recovered { failures: u32, after: Duration },
}

impl Vitals {
    /// Something has succeeded that was no probe.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.last_success = Some(now);
    }

    /// Probes have failed, and not enough of them to say what that means.
    pub(crate) fn is_doubtful(&self, config: &HealthConfig) -> bool {
        (1..config.alert_after).contains(&self.failures)
    }

    /// A probe has ended.
    pub(crate) fn probed(
        &mut self,
        outcome: Result<(), Arc<str>>,
        config: &HealthConfig,
        now: Instant,
    ) -> Option<Told> {
        match outcome {
            Ok(()) => {
                self.last_success = Some(now);
                let failures = std::mem::take(&mut self.failures);
                let since = self.first_failure.take();
                let alerted = std::mem::take(&mut self.alerted);
                alerted.then(|| Told::Recovered {
                    failures,
                    after: since
                        .map(|since| now.saturating_duration_since(since))
                        .unwrap_or_default(),
                })
            }
            Err(message) => {
                self.failures = self.failures.saturating_add(1);
                self.first_failure.get_or_insert(now);
                let alert = self.failures >= config.alert_after && !std::mem::replace(&mut self.alerted, true);
                // Not yet: the flag stays down until there was something to tell.
                self.alerted = self.failures >= config.alert_after;
                alert.then_some(Told::Alert {
                    failures: self.failures,
                    message,
                })
            }
        }
    }

    pub(crate) fn readiness(
        &self,
        closed: bool,
        breaker: &BreakerStats,
        config: &HealthConfig,
        now: Instant,
    ) -> Readiness {
        if closed || self.draining {
            return Readiness::Draining;
        }
        if !config.mode.enforces() {
            return Readiness::Ready;
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some(down) = breaker.down_for.filter(|down| *down >= config.unready_after) {
            return Readiness::BreakerOpen {
                for_ms: ms(down),
                cause: breaker.cause,
            };
        }
        let probe = self.last_success.map(|at| now.saturating_duration_since(at));
        let success = match (probe, breaker.last_answer) {
            (Some(probe), Some(call)) => Some(probe.min(call)),
            (one, other) => one.or(other),
        };
        match (success, self.watched_since) {
            // Without a monitor, and without traffic to come, it would never become ready.
            (None, None) => Readiness::Ready,
            (None, Some(_)) => Readiness::Starting,
            (Some(ago), _) if self.failures >= config.alert_after && ago >= config.unready_after => {
                Readiness::NoSuccess {
                    for_ms: ms(ago),
                    failures: self.failures,
                }
            }
            (Some(_), _) => Readiness::Ready,
        }
    }

    pub(crate) fn liveness(&self, tasks: bool, config: &HealthConfig, now: Instant) -> Liveness {
        if !tasks {
            return Liveness::TaskEnded;
        }
        let late = self
            .beat
            .filter(|_| config.mode != Mode::Off)
            .map(|beat| now.saturating_duration_since(beat));
        match late {
            Some(late) if late >= config.stalled_after => Liveness::Stalled {
                late_ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
            },
            _ => Liveness::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HealthConfig {
        HealthConfig::default()
    }

    fn failed() -> Result<(), Arc<str>> {
        Err("down".into())
    }

    fn at(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn an_alert_comes_once_and_so_does_the_recovery() {
        let (mut vitals, now) = (Vitals::default(), Instant::now());
        assert_eq!(vitals.probed(Ok(()), &config(), now), None);
        assert_eq!(vitals.probed(failed(), &config(), at(now, 10)), None);
        assert_eq!(vitals.probed(failed(), &config(), at(now, 20)), None);
        let told = vitals.probed(failed(), &config(), at(now, 30));
        assert!(matches!(told, Some(Told::Alert { failures: 3, .. })), "{told:?}");
        assert_eq!(vitals.probed(failed(), &config(), at(now, 40)), None);
        let after = Duration::from_secs(40);
        let told = vitals.probed(Ok(()), &config(), at(now, 50));
        assert_eq!(told, Some(Told::Recovered { failures: 4, after }));
        assert_eq!(vitals.probed(Ok(()), &config(), at(now, 60)), None);
        assert_eq!(vitals.probed(failed(), &config(), at(now, 70)), None);
        assert_eq!(
            vitals.probed(Ok(()), &config(), at(now, 80)),
            None,
            "no alert, no recovery"
        );
    }

    #[test]
    fn ready_until_three_probes_failed_and_after_one_success() {
        let (mut vitals, now) = (Vitals::default(), Instant::now());
        let quiet = BreakerStats::default();
        let ready = |vitals: &Vitals, seconds| vitals.readiness(false, &quiet, &config(), at(now, seconds));
        assert_eq!(ready(&vitals, 0), Readiness::Ready, "nobody watches");
        vitals.watched_since = Some(now);
        assert_eq!(ready(&vitals, 0), Readiness::Starting);
        vitals.probed(Ok(()), &config(), now);
        assert_eq!(ready(&vitals, 0), Readiness::Ready);
        for seconds in [10, 20] {
            vitals.probed(failed(), &config(), at(now, seconds));
            assert_eq!(ready(&vitals, seconds), Readiness::Ready, "no flapping");
        }
        vitals.probed(failed(), &config(), at(now, 30));
        assert!(matches!(ready(&vitals, 30), Readiness::NoSuccess { failures: 3, .. }));
        vitals.probed(Ok(()), &config(), at(now, 40));
        assert_eq!(ready(&vitals, 40), Readiness::Ready);
    }

    #[test]
    fn a_call_that_succeeds_is_as_good_as_a_probe() {
        let (mut vitals, now) = (Vitals::default(), Instant::now());
        for seconds in [10, 20, 30] {
            vitals.probed(failed(), &config(), at(now, seconds));
        }
        let mut breaker = BreakerStats {
            last_answer: Some(Duration::from_secs(1)),
            ..BreakerStats::default()
        };
        assert_eq!(
            vitals.readiness(false, &breaker, &config(), at(now, 31)),
            Readiness::Ready
        );
        breaker.last_answer = Some(Duration::from_secs(60));
        assert!(!vitals.readiness(false, &breaker, &config(), at(now, 31)).is_ready());
    }

    #[test]
    fn an_open_breaker_counts_only_after_a_while_and_draining_at_once() {
        let (vitals, now) = (Vitals::default(), Instant::now());
        let mut breaker = BreakerStats {
            down_for: Some(Duration::from_secs(9)),
            ..BreakerStats::default()
        };
        assert!(vitals.readiness(false, &breaker, &config(), now).is_ready());
        breaker.down_for = Some(Duration::from_secs(10));
        let unready = vitals.readiness(false, &breaker, &config(), now);
        assert_eq!(unready.http_status(), 503);
        let observed = HealthConfig {
            mode: Mode::Observe,
            ..config()
        };
        assert!(vitals.readiness(false, &breaker, &observed, now).is_ready());
        assert_eq!(vitals.readiness(true, &breaker, &observed, now), Readiness::Draining);
    }

    #[test]
    fn alive_while_the_heart_beats() {
        let (mut vitals, now) = (Vitals::default(), Instant::now());
        assert!(vitals.liveness(true, &config(), now).is_alive(), "nobody watches");
        vitals.beat = Some(now);
        assert!(vitals.liveness(true, &config(), at(now, 9)).is_alive());
        assert_eq!(
            vitals.liveness(true, &config(), at(now, 12)),
            Liveness::Stalled { late_ms: 12_000 }
        );
        assert_eq!(vitals.liveness(false, &config(), now), Liveness::TaskEnded);
    }
}
