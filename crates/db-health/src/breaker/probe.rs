//! Who tries the endpoint while its breaker is open.

use super::{
    handle::Shared,
    machine::{Next, Ticket},
    outcome::Outcome,
};
use db_core::{BreakerCause, BreakerState, Error, Event};
use std::{future::Future, pin::Pin, sync::Arc};
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tries an endpoint, and hears about it.
pub trait Probe: Send + Sync + 'static {
    /// One try, best on a connection of its own. `cause` is why the breaker opened: an endpoint that took no writes has
    /// to take writes again. Given up after [`BreakerConfig::probe_timeout`](crate::BreakerConfig::probe_timeout).
    fn probe(&self, cause: BreakerCause) -> Boxed<'_, Result<(), Error>>;

    /// The breaker is in another state. Called inline: be quick.
    fn changed(&self, state: BreakerState) {
        let _ = state;
    }
}

/// Starts the prober where there is a runtime.
pub(super) fn spawn(shared: &Arc<Shared>) -> Option<AbortHandle> {
    let probe = shared.probe.get()?.clone();
    let runtime = Handle::try_current().ok()?;
    let prober = Prober(Some(shared.clone()));
    Some(runtime.spawn(prober.keep_trying(probe)).abort_handle())
}

/// The prober at work. However its task ends, another one can be started.
struct Prober(Option<Arc<Shared>>);

impl Drop for Prober {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.machine.lock().prober_gone();
        }
    }
}

impl Prober {
    async fn keep_trying(mut self, probe: Arc<dyn Probe>) {
        if let Some(shared) = self.0.clone() {
            keep_trying(&shared, &*probe).await;
            // It has said so itself, in the same breath as it found nothing to do: by now another one may be at work.
            self.0 = None;
        }
    }
}

/// Lives while the breaker is open or half-open.
async fn keep_trying(shared: &Shared, probe: &dyn Probe) {
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (next, change) = {
            let mut machine = shared.machine.lock();
            let (next, change) = machine.next(Instant::now());
            shared.settle(&machine, false);
            (next, change)
        };
        shared.announce(change);
        match next {
            Next::Rest => return,
            Next::Wait(until) => tokio::select! {
                () = sleep_until(until) => {}
                () = changed => {}
            },
            Next::Probe(ticket, cause) => {
                let mut attempt = Attempt {
                    shared,
                    ticket: Some(ticket),
                    since: Instant::now(),
                };
                let limit = shared.machine.lock().config().probe_timeout;
                let outcome = match timeout(limit, probe.probe(cause)).await {
                    Ok(Ok(())) => Outcome::Answered,
                    Ok(Err(error)) => match Outcome::of(&error) {
                        Outcome::Failed(cause) => Outcome::Failed(cause),
                        // A probe that fails has failed, whatever it was.
                        Outcome::Answered | Outcome::Unknown => Outcome::Failed(cause),
                    },
                    Err(_) => Outcome::Failed(BreakerCause::Timeout),
                };
                attempt.end(outcome);
            }
        }
    }
}

/// A probe on its way. Dropped with the task, it comes back.
struct Attempt<'a> {
    shared: &'a Shared,
    ticket: Option<Ticket>,
    since: Instant,
}

impl Attempt<'_> {
    fn end(&mut self, outcome: Outcome) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = Instant::now();
        let change = {
            let mut machine = self.shared.machine.lock();
            let change = machine.end(ticket, outcome, false, now);
            self.shared.settle(&machine, false);
            change
        };
        let ok = outcome == Outcome::Answered;
        self.shared.counters.probed(ok);
        let took = now.saturating_duration_since(self.since);
        self.shared.tell(|| Event::Probed {
            ok,
            took,
            for_breaker: true,
        });
        self.shared.announce(change);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.end(Outcome::Unknown);
        }
    }
}
