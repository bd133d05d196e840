//! The checks that ask nobody: the pool, the calls, the breaker, the leases.

use crate::health::{
    config::HealthConfig,
    detail::Detail,
    report::{Finding, show},
    subject::{CallFacts, PoolFacts, Subject},
};
use db_core::BreakerState;
use std::time::Duration;

/// Fewer recent calls say nothing.
const ENOUGH: u64 = 20;
/// Holders that are named.
const NAMED: usize = 5;
/// A mean wait that is worth a word.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// What had been counted at the report before: only what is new counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    pool: PoolFacts,
    calls: CallFacts,
}

/// Saturation, and how long callers wait. A busy pool is never worse than degraded.
pub(crate) fn pool(now: PoolFacts, before: &mut Before, config: &HealthConfig) -> Finding {
    let then = std::mem::replace(&mut before.pool, now);
    let waits = now.waits.saturating_sub(then.waits);
    let waited = now.wait_time.saturating_sub(then.wait_time);
    let mean = waited
        .checked_div(u32::try_from(waits).unwrap_or(u32::MAX))
        .unwrap_or_default();
    let failures = now.failures.saturating_sub(then.failures);
    let share = f64::from(now.in_use) / f64::from(now.max.max(1));
    let finding = if share >= config.pool_saturation && now.waiting > 0 {
        Finding::degraded(format!("{} of {} in use, {} waiting", now.in_use, now.max, now.waiting))
    } else if failures > 0 {
        Finding::degraded(format!("{failures} callers got no connection lately"))
    } else if mean >= LONG_WAIT {
        Finding::degraded(format!("callers waited {} on average lately", show(mean)))
    } else {
        Finding::healthy(format!("{} of {} in use", now.in_use, now.max))
    };
    finding.with(Detail::Pool {
        in_use: now.in_use,
        max: now.max,
        waiting: now.waiting,
        recent_waits: waits,
        mean_wait_ms: mean.as_secs_f64() * 1000.0,
        recent_failures: failures,
    })
}

/// Failures and slow calls of late, not since the start.
pub(crate) fn calls(subject: &dyn Subject, before: &mut Before, config: &HealthConfig) -> Finding {
    let breaker = subject.breaker();
    let now = subject.calls();
    let then = std::mem::replace(&mut before.calls, now);
    let (recent, failed) = (breaker.recent_calls, breaker.recent_failed);
    let ended = now.ended.saturating_sub(then.ended);
    let slow = now.slow.saturating_sub(then.slow);
    let too_many = |part: u64, of: u64, share: f64| of >= ENOUGH && part as f64 >= share * of as f64;
    let finding = if too_many(failed, recent, 0.5) {
        Finding::unhealthy(format!("{failed} of {recent} recent calls failed"))
    } else if too_many(failed, recent, config.failure_rate) {
        Finding::degraded(format!("{failed} of {recent} recent calls failed"))
    } else if too_many(slow, ended, config.slow_rate) {
        Finding::degraded(format!("{slow} of {ended} recent calls were slow"))
    } else {
        Finding::healthy(format!("{failed} of {recent} recent calls failed"))
    };
    finding.with(Detail::Calls {
        recent,
        failed,
        ended,
        slow,
    })
}

pub(crate) fn breaker(subject: &dyn Subject) -> Finding {
    let stats = subject.breaker();
    let finding = match (stats.state, stats.cause) {
        (BreakerState::Closed, _) => Finding::healthy("closed"),
        (BreakerState::Disabled, _) => Finding::unknown("disabled by hand"),
        (BreakerState::HalfOpen, _) => Finding::degraded("half-open: a few calls are let through"),
        (BreakerState::ForcedOpen, _) => Finding::unhealthy("opened by hand: no call is let through"),
        (_, Some(cause)) => Finding::unhealthy(format!("open: {cause}")),
        (_, None) => Finding::unhealthy("open"),
    };
    finding.with(Detail::Breaker {
        state: stats.state.name(),
        cause: stats.cause.map(|cause| cause.name()),
        opened: stats.opened,
        refused: stats.refused,
    })
}

/// Leases that may be leaked.
pub(crate) fn leases(subject: &dyn Subject, config: &HealthConfig) -> Finding {
    let suspects: Vec<_> = subject
        .holders()
        .into_iter()
        .filter(|holder| holder.held >= config.lease)
        .collect();
    let holders = suspects.iter().take(NAMED).map(ToString::to_string).collect();
    let finding = match suspects.len() {
        0 => Finding::healthy("no lease is out for long"),
        n => Finding::degraded(format!("{n} out for more than {}", show(config.lease))),
    };
    finding.with(Detail::Leases {
        suspect: suspects.len(),
        holders,
    })
}
