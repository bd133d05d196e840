//! A task that holds a lease and waits for another one of an exhausted pool: when every holder does so, nobody is ever
//! served.
//!
//! Holding one and asking for another is no fault by itself: futures that are joined in one task do it all the time, and
//! go on with the one while they wait for the other; and a lease that is kept for good does no harm while others come
//! back. So a waiter is refused only when the lease that its task holds was left unused while it waited, by its holder and
//! on the server, and nobody else was served in that time either.

use crate::{ledger::Ledger, record::Sight, task, usage::By};
use db_core::{AcquireError, AcquireFailure, Alarm, Call, Holder, Lessor, Result, SessionState, Source};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};
use tokio::time::Instant;

/// Goes on with an `acquire` that waits, unless the wait turns out to be for one's own lease.
pub(crate) async fn guard<C: Source + Lessor>(
    ledger: &Ledger,
    source: u32,
    inner: &C,
    call: &Call,
    mut acquire: Pin<&mut impl Future<Output = Result<C::Lease>>>,
) -> Result<C::Lease> {
    let mut since = None;
    let mut alarm: Option<Alarm> = None;
    // The lease that this task held, unused, when it was looked at last. Boxed, as what follows: rare, and it must not make
    // every call's future larger.
    let mut held: Option<Box<(Sight, Instant)>> = None;
    loop {
        let served = poll_fn(|cx| {
            if let Poll::Ready(lease) = acquire.as_mut().poll(cx) {
                return Poll::Ready(Some(lease));
            }
            // Asked at every poll: a future that is joined to this one may get the lease that this one waits for.
            if alarm.is_none() && !ledger.holding.may_hold(task::current()) {
                return Poll::Pending;
            }
            let alarm = alarm.get_or_insert_with(|| {
                let now = Instant::now();
                since.get_or_insert(now);
                // Two looks make one wait.
                Alarm::at(now + ledger.settings().nested_wait / 2)
            });
            alarm.poll(cx).map(|()| None)
        })
        .await;
        if let Some(lease) = served {
            return lease;
        }
        alarm = None;
        let before = held.take();
        if !inner.is_saturated() {
            continue;
        }
        let Some(looked) = ledger.held_by(task::current(), source).map(Box::new) else {
            continue;
        };
        if !before.is_some_and(|before| stands(&before, &looked)) {
            held = Some(looked);
            continue;
        }
        if !Box::pin(is_idle(inner, &looked.0)).await {
            continue;
        }
        // It may have been idle because its answer had come a moment before: what is joined to this future has gone on with
        // that while the server was asked.
        if let Poll::Ready(lease) = poll_fn(|cx| Poll::Ready(acquire.as_mut().poll(cx))).await {
            return lease;
        }
        let again = ledger.held_by(task::current(), source);
        if !again.is_some_and(|again| stands(&again, &looked)) {
            continue;
        }
        let now = &looked.0;
        let refused = ledger.settings().nested.enforces();
        ledger.nested(By::of(call), now, refused);
        if !refused {
            drop(looked);
            return acquire.await;
        }
        let waited = since.map(|since| since.elapsed()).unwrap_or_default();
        let mut error = AcquireError::new(AcquireFailure::Nested, waited);
        error.site = call.site;
        let mut holder = Holder::new(now.class, now.since.elapsed());
        (holder.site, holder.statement) = (now.by.site, now.by.statement);
        holder.priority = now.priority;
        error.holders.push(holder);
        return Err(error.into());
    }
}

/// Whether it is the same lease, unused since, and nobody has got another one since.
fn stands(one: &(Sight, Instant), other: &(Sight, Instant)) -> bool {
    one.0.id == other.0.id && one.0.uses == other.0.uses && one.1 == other.1
}

/// Whether the server does nothing for the lease either. A raw one may run a statement that nobody tells of.
async fn is_idle<C: Lessor>(inner: &C, held: &Sight) -> bool {
    let Some(id) = held.id else { return true };
    match inner.examine(&[id]).await {
        Ok(sessions) => match sessions.first() {
            Some(session) => session.state != SessionState::Active,
            // It has come back meanwhile.
            None => false,
        },
        // A server that can't be asked will not serve anybody either.
        Err(_) => false,
    }
}
