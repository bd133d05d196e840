//! Counts of what happens now and then: the rare events, by metric and labels.

use crate::{conditions::breaker, registry::Id};
use db_core::{
    AcquireFailure, CacheDrop, CloseReason, Event, GaveUp, LeaseCause, LeaseOutcome, LimitOrigin, Priority, RetryCause,
    ShedReason,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A metric with the values of its labels.
pub(crate) type Key = (Id, [&'static str; 2]);
/// Label values come from enums and from class names in the application's code; more than this is a mistake there.
const MOST: usize = 4096;

/// How often each thing has happened. All that can is there from the start with 0, so that a rate sees the first one.
pub(crate) struct Happened(Mutex<BTreeMap<Key, u64>>);

const ACQUIRE: [&str; 12] = [
    "exhausted",
    "queue_full",
    "down",
    "too_many_connections",
    "refused",
    "closed",
    "nested",
    "no_replica",
    "no_primary",
    "shed",
    "no_database",
    "other",
];
/// What layers in observe mode tell of; what they only count is read from them.
const WOULD_HAVE: [&str; 5] = ["refused", "timed_out", "retried", "breaker_opened", "lease_revoked"];
const CLASSES: [&str; 5] = ["instant", "fast", "normal", "slow", "batch"];
const ORIGINS: [LimitOrigin; 4] = [
    LimitOrigin::Class,
    LimitOrigin::Adaptive,
    LimitOrigin::Call,
    LimitOrigin::Deadline,
];

impl Happened {
    pub(crate) fn new() -> Self {
        let mut zeros: Vec<Key> = vec![
            (Id::PoolExhausted, ["", ""]),
            (Id::BreakerRefused, ["", ""]),
            (Id::NestedAcquires, ["", ""]),
            (Id::PrimaryMoves, ["", ""]),
        ];
        let mut each = |id, values: &[&'static str]| zeros.extend(values.iter().map(|value| (id, [*value, ""])));
        each(Id::AcquireFailures, &ACQUIRE);
        each(Id::ConnectFailures, &ACQUIRE);
        each(Id::ConnectionsClosed, &CloseReason::ALL.map(CloseReason::name));
        each(Id::Quarantined, &["reused", "closed"]);
        each(Id::HealthFailures, &["connectivity"]);
        each(Id::BreakerChanges, &["closed", "open", "half_open"]);
        each(Id::LeaksFound, &LeaseCause::ALL.map(LeaseCause::name));
        each(Id::LeasesRevoked, &LeaseCause::ALL.map(LeaseCause::name));
        each(Id::NearLimit, &CLASSES);
        each(Id::OverAlert, &CLASSES);
        each(Id::Retries, &RetryCause::ALL.map(RetryCause::name));
        each(Id::RetriesGivenUp, &GaveUp::ALL.map(GaveUp::name));
        each(Id::WouldHave, &WOULD_HAVE);
        each(Id::CacheInvalidations, &CacheDrop::ALL.map(CacheDrop::name));
        for reason in ShedReason::ALL {
            zeros.extend(Priority::ALL.map(|priority| (Id::Shed, [reason.name(), priority.name()])));
        }
        for class in CLASSES {
            zeros.extend(ORIGINS.map(|origin| (Id::Timeouts, [class, origin.name()])));
        }
        Self(Mutex::new(zeros.into_iter().map(|key| (key, 0)).collect()))
    }

    /// Counts one.
    pub(crate) fn count(&self, key: Key) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
        } else if counts.len() < MOST {
            counts.insert(key, 1);
        }
    }

    pub(crate) fn event(&self, event: &Event) {
        let one = |id, value: &'static str| self.count((id, [value, ""]));
        match event {
            Event::ConnectFailed { failure, .. } => {
                one(Id::ConnectFailures, acquire_failure(*failure));
                one(Id::HealthFailures, "connectivity");
            }
            Event::Closed { reason, .. } => one(Id::ConnectionsClosed, reason.name()),
            Event::AcquireFailed { failure, priority, .. } => {
                if let AcquireFailure::Shed(reason) = failure {
                    self.count((Id::Shed, [reason.name(), priority.name()]));
                }
                one(Id::AcquireFailures, acquire_failure(*failure));
                if matches!(failure, AcquireFailure::TimedOut | AcquireFailure::QueueFull) {
                    one(Id::PoolExhausted, "");
                }
            }
            Event::Quarantined { outcome, .. } => one(
                Id::Quarantined,
                match outcome {
                    LeaseOutcome::Reused => "reused",
                    LeaseOutcome::Closed => "closed",
                },
            ),
            Event::TimedOut { class, origin, .. } => {
                self.count((Id::Timeouts, [class.name(), origin.name()]));
            }
            Event::NearLimit { class, .. } => one(Id::NearLimit, class.name()),
            Event::SlowCall { class, .. } => one(Id::OverAlert, class.name()),
            Event::Retried { cause, .. } => one(Id::Retries, cause.name()),
            Event::RetryGaveUp { reason, .. } => one(Id::RetriesGivenUp, reason.name()),
            Event::BreakerChanged { to, .. } => one(Id::BreakerChanges, breaker(*to)),
            Event::BreakerRefused { .. } => one(Id::BreakerRefused, ""),
            Event::Probed { ok: false, .. } => one(Id::HealthFailures, "connectivity"),
            Event::CacheInvalidated { reason, .. } => one(Id::CacheInvalidations, reason.name()),
            Event::LeaseSuspect(suspect) => one(Id::LeaksFound, suspect.cause.name()),
            Event::LeaseRevoked(suspect) => one(Id::LeasesRevoked, suspect.cause.name()),
            Event::WouldRefuse { .. } => one(Id::WouldHave, WOULD_HAVE[0]),
            Event::WouldTimeOut { .. } => one(Id::WouldHave, WOULD_HAVE[1]),
            Event::WouldRetry { .. } => one(Id::WouldHave, WOULD_HAVE[2]),
            Event::BreakerWouldOpen { .. } => one(Id::WouldHave, WOULD_HAVE[3]),
            Event::WouldRevoke(_) => one(Id::WouldHave, WOULD_HAVE[4]),
            Event::NestedAcquire { .. } => one(Id::NestedAcquires, ""),
            Event::NodeBanned { reason, .. } => one(Id::ReplicaBans, reason.name()),
            Event::PrimaryMoved { .. } => one(Id::PrimaryMoves, ""),
            _ => {}
        }
    }

    /// All counts since the start.
    pub(crate) fn list(&self) -> Vec<(Key, u64)> {
        self.0.lock().iter().map(|(key, count)| (*key, *count)).collect()
    }
}

fn acquire_failure(failure: AcquireFailure) -> &'static str {
    match failure {
        AcquireFailure::TimedOut => ACQUIRE[0],
        AcquireFailure::QueueFull => ACQUIRE[1],
        AcquireFailure::Down => ACQUIRE[2],
        AcquireFailure::TooManyConnections => ACQUIRE[3],
        AcquireFailure::Refused => ACQUIRE[4],
        AcquireFailure::Closed => ACQUIRE[5],
        AcquireFailure::Nested => ACQUIRE[6],
        AcquireFailure::NoReplica => ACQUIRE[7],
        AcquireFailure::NoPrimary => ACQUIRE[8],
        AcquireFailure::Shed(_) => ACQUIRE[9],
        AcquireFailure::NoDatabase => ACQUIRE[10],
        _ => ACQUIRE[11],
    }
}
