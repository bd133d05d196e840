//! Where a call's time goes while it waits, noted by the layers that make it wait.
//!
//! A layer says `let _wait = Waiting::on(Part::Queue);` around its wait. Whoever measures the call polls it inside
//! [`Spent::scope`]; without that, a wait costs one look at a thread-local. Nothing is allocated, no layer knows who
//! measures, and a wait whose future is dropped is still seen.

use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

thread_local! {
    /// Set only while a measured call is being polled.
    static CURRENT: Cell<Option<Spent>> = const { Cell::new(None) };
}

/// What a call can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Its turn: for a lease, or for leave to ask for one.
    Queue,
    /// A test of a connection that was idle.
    Validate,
    /// A connection that was opened while it waited.
    Connect,
    /// The pause before another attempt.
    Backoff,
    /// The reader of its rows.
    Stream,
    /// The same answer, which another caller is already fetching.
    Cache,
    /// A replica that has not yet replayed what the caller wrote.
    Replica,
}

impl Part {
    /// Every part, in the order of [`Part::index`].
    pub const ALL: [Self; 7] = [
        Self::Queue,
        Self::Validate,
        Self::Connect,
        Self::Backoff,
        Self::Stream,
        Self::Cache,
        Self::Replica,
    ];

    /// A small number for tables of times.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Validate => "validate",
            Self::Connect => "connect",
            Self::Backoff => "backoff",
            Self::Stream => "stream",
            Self::Cache => "cache",
            Self::Replica => "replica",
        }
    }
}

/// The time that one call has waited, by what it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    nanos: [u64; Part::ALL.len()],
    /// The wait that has not ended.
    open: Option<(Part, Instant)>,
}

impl Spent {
    /// The time spent on one part, a wait that was dropped half-way included.
    pub fn on(&self, part: Part) -> Duration {
        Duration::from_nanos(self.nanos[part.index()])
    }

    /// All parts together: what is left of a call's duration went to the server, the network and the driver.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.iter().sum())
    }

    /// Polls a call: what is noted during `poll` is added to `self`.
    pub fn scope<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        /// Also when `poll` panics.
        struct Restore<'a>(&'a mut Spent, Option<Spent>);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                if let Some(noted) = CURRENT.replace(self.1.take()) {
                    *self.0 = noted;
                }
            }
        }
        let outer = CURRENT.replace(Some(*self));
        let _restore = Restore(self, outer);
        poll()
    }

    /// Ends a wait whose future was dropped: call it when the measured call is over.
    pub fn close(&mut self, now: Instant) {
        if let Some((part, since)) = self.open.take() {
            self.add(part, now.saturating_duration_since(since));
        }
    }

    fn add(&mut self, part: Part, time: Duration) {
        self.nanos[part.index()] += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 16);
    }
}

/// A wait in progress; it ends when this is dropped.
#[must_use = "the wait ends when this is dropped"]
#[derive(Debug)]
pub struct Waiting {
    measured: bool,
}

impl Waiting {
    /// Begins a wait. Of waits inside one another only the outer one counts.
    pub fn on(part: Part) -> Self {
        let measured = with(|spent| {
            let first = spent.open.is_none();
            if first {
                spent.open = Some((part, Instant::now()));
            }
            first
        });
        Self {
            measured: measured.unwrap_or_default(),
        }
    }

    /// Ends the wait; of its time, up to `of` was really spent on `part`.
    pub fn end_with(self, part: Part, of: Duration) {
        if !self.measured {
            return;
        }
        with(|spent| {
            if let Some((outer, since)) = spent.open.take() {
                let waited = since.elapsed();
                let moved = of.min(waited);
                spent.add(part, moved);
                spent.add(outer, waited - moved);
            }
        });
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.measured {
            with(|spent| spent.close(Instant::now()));
        }
    }
}

/// `None` when no measured call is being polled.
fn with<T>(change: impl FnOnce(&mut Spent) -> T) -> Option<T> {
    let mut spent = CURRENT.get()?;
    let out = change(&mut spent);
    CURRENT.set(Some(spent));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::{Future, poll_fn},
        pin::pin,
        task::Poll,
    };
    use tokio::time::sleep;

    const MS: Duration = Duration::from_millis(1);

    async fn measured(call: impl Future<Output = ()>) -> Spent {
        let (mut spent, mut call) = (Spent::default(), pin!(call));
        poll_fn(|cx| spent.scope(|| call.as_mut().poll(cx))).await;
        spent
    }

    #[tokio::test(start_paused = true)]
    async fn waits_add_up_across_polls() {
        let spent = measured(async {
            for _ in 0..2 {
                let _wait = Waiting::on(Part::Queue);
                sleep(5 * MS).await;
            }
            sleep(70 * MS).await;
            let wait = Waiting::on(Part::Queue);
            sleep(9 * MS).await;
            wait.end_with(Part::Connect, 6 * MS);
        })
        .await;
        assert_eq!((spent.on(Part::Queue), spent.on(Part::Connect)), (13 * MS, 6 * MS));
        assert_eq!(spent.total(), 19 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_inside_another_counts_once() {
        let spent = measured(async {
            let _outer = Waiting::on(Part::Cache);
            sleep(MS).await;
            let _inner = Waiting::on(Part::Queue);
            sleep(MS).await;
        })
        .await;
        assert_eq!((spent.on(Part::Cache), spent.on(Part::Queue)), (2 * MS, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_dropped_with_its_call_is_seen() {
        let mut spent = Spent::default();
        {
            let mut call = pin!(async {
                let _wait = Waiting::on(Part::Backoff);
                std::future::pending::<()>().await;
            });
            let once = poll_fn(|cx| Poll::Ready(spent.scope(|| call.as_mut().poll(cx).is_ready())));
            assert!(!once.await);
            sleep(3 * MS).await;
        }
        spent.close(Instant::now());
        assert_eq!(spent.on(Part::Backoff), 3 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_inside_a_call_has_its_own_account() {
        let outer = measured(async {
            let inner = measured(async {
                let _wait = Waiting::on(Part::Queue);
                sleep(MS).await;
            })
            .await;
            assert_eq!(inner.on(Part::Queue), MS);
        })
        .await;
        assert_eq!(outer.total(), Duration::ZERO);
        drop(Waiting::on(Part::Queue)); // measured by nobody
        assert!(CURRENT.get().is_none());
    }
}
