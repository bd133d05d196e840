//! The layer's loop.

use crate::{ledger::Ledger, watch::Watch};
use db_core::{Alarm, Call, Operation, Result, Service};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// The layer itself waits this much longer than those below, which keep to the same deadline and know more about why it
/// passed: "the pool is exhausted" says more than "timed out".
const LAST_WORD: Duration = Duration::from_millis(1);

/// A service that ends its calls at their limit. Made by [`TimeoutLayer`](crate::TimeoutLayer).
///
/// Cancel-safe: a dropped call drops the one inside, like a timeout does.
pub struct Timeout<S> {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) inner: S,
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Timeout<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        let Some(mut watch) = Watch::begin(&self.ledger, call) else {
            return self.inner.call(call, op).await;
        };
        watch.admit()?;
        let Some(deadline) = watch.deadline() else {
            let out = self.inner.call(call, op).await;
            watch.settle(&out, !op.replayable());
            return out;
        };
        let call = call.clone().with_deadline(deadline);
        let out = {
            let mut alarm = Alarm::at(deadline + LAST_WORD);
            let mut work = pin!(self.inner.call(&call, op));
            // Ends with the block: what was in flight is given up before the caller hears of it.
            poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(out) => Poll::Ready(Some(out)),
                // A stream of which the caller has rows: from there on its pace is the caller's, and a class says
                // nothing about how long a caller reads.
                Poll::Pending if watch.by_class() && !op.replayable() => Poll::Pending,
                Poll::Pending => alarm.poll(cx).map(|()| None),
            })
            .await
        };
        match out {
            Some(out) => {
                watch.settle(&out, !op.replayable());
                out
            }
            None => Err(watch.expire()),
        }
    }
}

impl<S: Clone> Clone for Timeout<S> {
    fn clone(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            inner: self.inner.clone(),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Timeout<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
