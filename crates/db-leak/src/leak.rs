//! The source.

use crate::{lease::Tracked, ledger::Ledger, nested, usage::By, watch};
use db_core::{Call, Lease, Lessor, Result, Source};
use parking_lot::Mutex;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};
use tokio::{runtime::Handle, task::AbortHandle, time::Instant};

/// A source that keeps account of the leases of another one. Made by [`LeakLayer`](crate::LeakLayer).
///
/// Cheap to clone. Its watch starts with the first lease, in that caller's runtime, and again in another one's when that
/// runtime has gone; it ends with the last clone.
pub struct Leak<C> {
    pub(crate) ledger: Arc<Ledger>,
    number: u32,
    source: C,
    watch: Arc<Watching>,
}

struct Watching {
    /// Cleared by the task when it ends, whatever ends it.
    alive: Arc<AtomicBool>,
    task: Mutex<Option<AbortHandle>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl<C> Leak<C> {
    pub(crate) fn new(ledger: Arc<Ledger>, source: C) -> Self {
        Self {
            number: ledger.next_source(),
            ledger,
            source,
            watch: Arc::new(Watching {
                alive: Arc::default(),
                task: Mutex::default(),
            }),
        }
    }

    /// The source inside.
    pub fn get_ref(&self) -> &C {
        &self.source
    }
}

impl<C: Source + Lessor + Clone + 'static> Leak<C> {
    /// A lease for a call of the default class from this line.
    #[track_caller]
    pub fn acquire_here(&self) -> impl Future<Output = Result<Tracked<C::Lease>>> + Send + use<C> {
        let (source, call) = (self.clone(), Call::here());
        async move { source.acquire(&call).await }
    }

    /// Notes a lease that was got from the source inside.
    #[inline]
    pub fn track(&self, mut lease: C::Lease, call: &Call) -> Tracked<C::Lease> {
        let duties = self.ledger.duties();
        if !duties.notes() {
            return Tracked::new(lease, None);
        }
        self.start();
        let before = lease.attachment().and_then(Option::take);
        let before = before.and_then(|record| record.downcast().ok());
        let record = before
            .filter(|record| crate::record::Record::is_of(record, &self.ledger, self.number))
            .unwrap_or_else(|| self.ledger.open(self.number));
        let backtrace = if duties.samples() { self.sample(call) } else { None };
        let since = lease.since().unwrap_or_else(Instant::now);
        record.hand_out(call, lease.id(), since, backtrace);
        Tracked::new(lease, Some((record, since)))
    }

    #[cold]
    fn sample(&self, call: &Call) -> Option<Arc<std::backtrace::Backtrace>> {
        let taken = self
            .ledger
            .sampled
            .take(By::of(call), self.ledger.settings().backtrace_sample);
        self.ledger.set_flags();
        taken
    }

    /// Starts the watch, if none is alive.
    fn start(&self) {
        if !self.watch.alive.load(Ordering::Relaxed) {
            self.start_now();
        }
    }

    #[cold]
    fn start_now(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut task = self.watch.task.lock();
        if self.watch.alive.swap(true, Ordering::AcqRel) {
            return;
        }
        let alive = watch::Alive(Arc::clone(&self.watch.alive));
        let watch = watch::keep(Arc::clone(&self.ledger), self.number, self.source.clone(), alive);
        *task = Some(runtime.spawn(watch).abort_handle());
    }
}

impl<C: Source + Lessor + Clone + 'static> Source for Leak<C> {
    type Lease = Tracked<C::Lease>;

    async fn acquire(&self, call: &Call) -> Result<Self::Lease> {
        let mut acquire = pin!(self.source.acquire(call));
        // Most are served at once, and only those who wait can wait for themselves.
        let first = poll_fn(|cx| Poll::Ready(acquire.as_mut().poll(cx))).await;
        let lease = match first {
            Poll::Ready(lease) => lease?,
            Poll::Pending if self.ledger.duties().looks_for_nested() => {
                nested::guard(&self.ledger, self.number, &self.source, call, acquire).await?
            }
            Poll::Pending => acquire.await?,
        };
        Ok(self.track(lease, call))
    }
}

impl<C: Clone> Clone for Leak<C> {
    fn clone(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            number: self.number,
            source: self.source.clone(),
            watch: Arc::clone(&self.watch),
        }
    }
}

impl<C: fmt::Debug> fmt::Debug for Leak<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leak")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
