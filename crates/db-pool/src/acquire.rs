//! From a call to a lease: the hot set, a test after an idle time, or a place in the queue.

use crate::{
    holders::Caller,
    homes::Home,
    lease::PoolLease,
    pool::Pool,
    queue::Ticket,
    shared::{First, Shared},
    state::{Grant, Phase},
};
use db_core::{AcquireFailure, Alarm, Call, CloseReason, Event, Lease, LeaseState, Part, Result, Waiting};
use sqlx::Connection;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::Ordering,
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// A lease that was handed over is on its way for less.
const HANDED_OVER: Duration = Duration::from_millis(10);

impl Pool {
    pub(crate) async fn acquire_for(&self, call: &Call) -> Result<PoolLease> {
        loop {
            let lease = self.next_lease(call).await?;
            if !lease.is_outdated() {
                return Ok(lease);
            }
            // Boxed: rare, and it must not make every call's future larger.
            if let Some(lease) = Box::pin(self.shared.renewed(lease)).await {
                return Ok(lease);
            }
        }
    }

    async fn next_lease(&self, call: &Call) -> Result<PoolLease> {
        self.start();
        let (caller, home) = (Caller::from(call), home_of(call));
        loop {
            let untested = match self.shared.first(caller, &home, call.deadline, true)? {
                First::Lease(lease) => {
                    self.shared.observers.leased(Duration::ZERO);
                    return Ok(lease);
                }
                First::Test(lease) => lease,
                First::Wait(ticket, granted) => match self.wait(call, caller, ticket, granted).await? {
                    // Kept idle for another priority meanwhile.
                    lease if lease.idle_for() > self.shared.config.load().validate_after + HANDED_OVER => lease,
                    lease => return Ok(lease),
                },
                First::Nothing => continue,
            };
            let since = Instant::now();
            if let Some(lease) = self.test(untested).await {
                self.shared.observers.leased(since.elapsed());
                return Ok(lease);
            }
        }
    }

    async fn wait(
        &self,
        call: &Call,
        caller: Caller,
        ticket: Ticket,
        mut granted: oneshot::Receiver<Grant>,
    ) -> Result<PoolLease> {
        let since = Instant::now();
        let place = Place {
            shared: &self.shared,
            ticket,
            served: false,
        };
        let (timeout, slow) = {
            let config = self.shared.config.load();
            (config.acquire_timeout, config.slow_acquire)
        };
        let own = since + timeout;
        let limit = call.deadline.map_or(own, |deadline| deadline.min(own));
        let waiting = Waiting::since(Part::Queue, since);
        let mut alarm = Alarm::soon(limit);
        let answer = poll_fn(|cx| match Pin::new(&mut granted).poll(cx) {
            Poll::Ready(grant) => Poll::Ready(Some(grant)),
            Poll::Pending => alarm.poll(cx).map(|()| None),
        })
        .await;
        let waited = since.elapsed();
        if let Some(Ok(Ok(lease))) = &answer {
            // A connection that was opened meanwhile: that was the wait, as far as opening it took.
            waiting.end_at(since + waited, Part::Connect, lease.opened_since(since));
            self.shared.observers.leased(waited);
        } else {
            drop(waiting);
        }
        self.shared
            .waited_nanos
            .fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let lease = match answer {
            Some(Ok(grant)) => {
                place.done();
                grant
            }
            Some(Err(_)) | None => {
                drop(place);
                let mut state = self.shared.state.lock();
                state.stats.timeouts += 1;
                let failure = if state.phase == Phase::Closed {
                    AcquireFailure::Closed
                } else {
                    AcquireFailure::TimedOut
                };
                let error = state.explain(failure, waited, Instant::now());
                drop(state);
                Err(self.shared.failed(caller, error))
            }
        };
        if waited >= slow {
            let served = lease.is_ok();
            self.shared.observers.tell(|| Event::SlowAcquire {
                waited,
                served,
                site: caller.site,
                class: caller.class,
                priority: caller.priority,
            });
        }
        lease
    }

    /// Tests a connection that was idle for a while. When one is dead, the others that were idle as long are suspect.
    async fn test(&self, mut lease: PoolLease) -> Option<PoolLease> {
        let config = self.shared.config.load_full();
        let testing = Waiting::on(Part::Validate);
        let alive = timeout(config.validation_timeout, lease.start().ping()).await;
        drop(testing);
        if matches!(alive, Ok(Ok(()))) {
            lease.settle(LeaseState::Clean);
            return Some(lease);
        }
        lease.discard(CloseReason::Invalid);
        let now = Instant::now();
        let suspects: Vec<_> = {
            let mut state = self.shared.state.lock();
            let (suspects, fresh) = std::mem::take(&mut state.idle)
                .into_iter()
                .partition(|c| c.idle_for(now) > config.validate_after);
            state.idle = fresh;
            for conn in &suspects {
                let conn: &crate::conn::Conn = conn;
                state.forget(conn, CloseReason::Invalid);
            }
            suspects
        };
        for conn in suspects {
            self.shared.part(conn, CloseReason::Invalid);
        }
        self.shared.demand.notify_one();
        None
    }
}

/// The database of the call's tenant.
pub(crate) fn home_of(call: &Call) -> Home {
    call.tenant.as_ref()?.database().cloned()
}

/// A place in the queue, left on drop.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    served: bool,
}

impl Place<'_> {
    fn done(mut self) {
        self.served = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.served {
            let now = Instant::now();
            let mut state = self.shared.state.lock();
            let left = state.queue.leave(self.ticket, now);
            // Others may have waited behind it alone.
            if left.is_some() && state.queue.len() > 0 && !state.idle.is_empty() {
                self.shared.demand.notify_one();
            }
        }
    }
}
