//! Fairness between tasks that share a worker.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
};
use tokio::task;

thread_local! {
    /// The task whose last call on this worker never had to wait.
    static GREEDY: Cell<Option<task::Id>> = const { Cell::new(None) };
}

/// Runs a call, after the others' when its task's last one never had to wait.
///
/// On a local server the answer is often there before the socket is read: such a task would keep its worker for query
/// after query, and nobody would look at the sockets where the others' answers grow old. It gives way before its next
/// call, not after this one, so that whoever makes a single call is never held up. Calls that waited have given way
/// already: from a server further away this costs nothing.
///
/// Takes the call by its pin: as an argument it would have two places in the future, its own and the pinned one.
pub(crate) async fn fair<F: Future>(mut call: Pin<&mut F>) -> F::Output {
    let me = task::try_id();
    if me.is_some() && GREEDY.take() == me {
        // Until the worker has looked at the sockets, which it does when all that can run has run.
        task::yield_now().await;
    }
    let mut waited = false;
    let out = poll_fn(|cx| {
        let polled = call.as_mut().poll(cx);
        waited |= polled.is_pending();
        polled
    })
    .await;
    GREEDY.set(me.filter(|_| !waited));
    out
}
