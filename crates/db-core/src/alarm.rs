//! Waking a call at its limit, for less than a timer of its own.
//!
//! Setting a timer and unsetting it costs about 80 ns, and nearly every call ends long before its limit. So a call that
//! ends leaves its timer set, to the next call of the same thread, which finds it due *before* its own limit: when it
//! fires early it is set anew, once for every limit's length instead of once for every call. Measured: 27 ns.

use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    thread::LocalKey,
};
use tokio::{
    runtime::{Handle, Id},
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

/// Timers that one thread keeps; a call beyond them sets one of its own.
const KEPT: usize = 256;

thread_local! {
    static TIMERS: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) };
    /// Those of [`Alarm::soon`].
    static SOON: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) };
}

/// A timer and the runtime that drives it. The timer keeps the runtime's handle, so the number stays its own.
struct Timer {
    runtime: Id,
    sleep: Pin<Box<Sleep>>,
}

/// Due at a certain moment. Sets no timer before it is polled.
pub struct Alarm {
    due: Instant,
    soon: bool,
    timer: Option<Timer>,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Alarm {
    /// An alarm for this moment, the end of a call.
    pub fn at(due: Instant) -> Self {
        Self {
            due,
            soon: false,
            timer: None,
        }
    }

    /// An alarm within a call, long before the call's end. Its timers are kept apart: one that served a call's end would
    /// have to be set back each time.
    pub fn soon(due: Instant) -> Self {
        Self {
            due,
            soon: true,
            timer: None,
        }
    }

    /// Ready when it is due. To be polled after the work, in a runtime with timers; panics in none, as tokio's do.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A timer does not answer a task that has used up its turn, and work that always has would never be ended.
        if !has_budget_remaining() && Instant::now() >= self.due {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Timer::set(self.due, self.soon));
        while timer.sleep.as_mut().poll(cx).is_ready() {
            if timer.sleep.deadline() >= self.due {
                return Poll::Ready(());
            }
            timer.sleep.as_mut().reset(self.due);
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.keep(self.soon);
        }
    }
}

impl Timer {
    /// A timer that fires no later than `due`.
    fn set(due: Instant, soon: bool) -> Self {
        let runtime = Handle::current().id();
        // One of another runtime is dropped: nobody may be driving it.
        while let Some(mut timer) = Self::kept(soon) {
            if timer.runtime == runtime {
                if timer.sleep.is_elapsed() || timer.sleep.deadline() > due {
                    timer.sleep.as_mut().reset(due);
                }
                return timer;
            }
        }
        Self {
            runtime,
            sleep: Box::pin(sleep_until(due)),
        }
    }

    fn list(soon: bool) -> &'static LocalKey<RefCell<Vec<Self>>> {
        if soon { &SOON } else { &TIMERS }
    }

    fn kept(soon: bool) -> Option<Self> {
        let kept = Self::list(soon).try_with(|timers| timers.borrow_mut().pop());
        kept.ok().flatten()
    }

    fn keep(self, soon: bool) {
        let mut mine = Some(self);
        // Fails when the thread ends; what is not kept is dropped here, outside of the borrow.
        let _ = Self::list(soon).try_with(|timers| {
            let mut timers = timers.borrow_mut();
            if timers.len() < KEPT {
                timers.extend(mine.take());
            }
        });
    }
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
