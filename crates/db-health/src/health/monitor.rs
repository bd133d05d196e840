//! The task that watches: a probe every now and then, and a heartbeat.

use super::{config::HealthConfig, handle::Shared, lane, vitals::Told};
use db_core::{BreakerState, Event};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The time between two heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// Probes come earlier or later by up to this share of the interval, so that many processes don't knock together.
const JITTER: f64 = 0.2;
/// After a failed probe the next one comes so much sooner, until there have been enough for an alert: HAProxy's
/// `fastinter`. Without traffic nothing else would notice for `alert_after` intervals.
const HURRY: u32 = 5;

/// Lives as long as the handle, or until the database is closed.
pub(super) async fn watch(shared: Weak<Shared>) {
    // The first look comes soon, and not at once: what has just been made is often thrown away at once.
    let mut next = Instant::now() + BEAT;
    loop {
        sleep(next.saturating_duration_since(Instant::now()).min(BEAT)).await;
        let Some(shared) = shared.upgrade() else { return };
        let config = shared.config.load_full();
        if shared.subject.is_closed() || config.mode.is_off() {
            let mut vitals = shared.vitals.lock();
            (vitals.beat, vitals.watched_since) = (None, None);
            return;
        }
        shared.vitals.lock().beat = Some(Instant::now());
        if Instant::now() >= next {
            probe(&shared).await;
            let spread = 1.0 - JITTER + 2.0 * JITTER * fastrand::f64();
            let pause = if shared.vitals.lock().is_doubtful(&config) {
                config.interval / HURRY
            } else {
                config.interval
            };
            next = Instant::now() + pause.mul_f64(spread);
        }
    }
}

async fn probe(shared: &Arc<Shared>) {
    let config = shared.config.load_full();
    let since = Instant::now();
    let deadline = since + config.timeout;
    let state = shared.subject.breaker().state;
    let outcome: Result<(), Arc<str>> = match state {
        // Somebody tries it already, and what it gets is to be no more than that.
        BreakerState::Open | BreakerState::HalfOpen => Err("the circuit breaker is open".into()),
        _ => match timeout_at(deadline, shared.line.lock()).await {
            Ok(mut line) => {
                shared.begin(&mut line);
                let met = lane::connect(&*shared.subject, &mut line.kept, deadline).await;
                shared.done(&mut line);
                met.map(drop).map_err(|finding| finding.message.into())
            }
            // A report has the line, and says more than a probe.
            Err(_) => return,
        },
    };
    let (ok, took) = (outcome.is_ok(), since.elapsed());
    let told = shared.vitals.lock().probed(outcome, &config, Instant::now());
    shared.observers.tell(|| Event::Probed {
        ok,
        took,
        for_breaker: false,
    });
    match told {
        None => {}
        Some(Told::Alert { failures, message }) => {
            tracing::error!(failures, %message, "the database does not answer");
            shared.observers.tell(|| Event::HealthAlert { failures, message });
        }
        Some(Told::Recovered { failures, after }) => {
            tracing::info!(failures, ?after, "the database answers again");
            shared.observers.tell(|| Event::HealthRecovered { failures, after });
        }
    }
    if ok {
        // Past its time it is given up: it comes round again.
        let _ = timeout(config.timeout, shared.subject.look_after()).await;
        report(shared, &config).await;
    }
}

/// A report that nobody has asked for, so that metrics know of every check.
async fn report(shared: &Shared, config: &HealthConfig) {
    let last = shared.last_report();
    if !config.report_every.is_zero() && last.is_none_or(|last| last.elapsed() >= config.report_every) {
        shared.report(&shared.before_own).await;
    }
}
