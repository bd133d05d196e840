//! Who is told what happens.

use crate::{CallReport, Event, Spent};
use arc_swap::ArcSwap;
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Is told what happens. Called inline, some events on the path of a query: be quick, never block.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &Event);

    /// Whether it wants to be told of every call and every lease as well; asked once. Default no: ordinary calls then
    /// cost nothing.
    fn watches_calls(&self) -> bool {
        false
    }

    /// A call is over.
    fn call(&self, report: &CallReport<'_>) {
        let _ = report;
    }

    /// A caller has got a lease. That of a measured call is told by its report instead: [`CallReport::waited`].
    fn leased(&self, waited: Duration) {
        let _ = waited;
    }

    /// A lease came back. That of a measured call is told by its report instead: [`CallReport::held`].
    fn returned(&self, held: Duration) {
        let _ = held;
    }
}

/// The observers of one stack, shared by its layers. Costs one relaxed load per event when nobody listens.
#[derive(Clone, Default)]
pub struct Observers(Arc<Registry>);

#[derive(Default)]
struct Registry {
    any: AtomicBool,
    /// Found without a lock: some events are as frequent as calls.
    list: ArcSwap<Vec<Arc<dyn Observer>>>,
    /// One change at a time.
    changing: Mutex<()>,
    any_watches: AtomicBool,
    /// Those who watch every call, to be found without a lock.
    watchers: ArcSwap<Vec<Arc<dyn Observer>>>,
}

impl Registry {
    fn change(&self, change: impl FnOnce(&[Arc<dyn Observer>]) -> Vec<Arc<dyn Observer>>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let list = change(&self.list.load());
        let watchers: Vec<_> = list
            .iter()
            .filter(|observer| observer.watches_calls())
            .cloned()
            .collect();
        self.any_watches.store(!watchers.is_empty(), Ordering::Release);
        self.watchers.store(Arc::new(watchers));
        let any = !list.is_empty();
        self.list.store(Arc::new(list));
        self.any.store(any, Ordering::Release);
    }
}

impl Observers {
    /// Adds an observer for as long as the stack lives.
    pub fn add(&self, observer: Arc<dyn Observer>) {
        self.0.change(|list| list.iter().cloned().chain([observer]).collect());
    }

    /// Whether anybody watches every call. One relaxed load.
    pub fn any_watches(&self) -> bool {
        self.0.any_watches.load(Ordering::Relaxed)
    }

    /// Tells those who watch every call that one is over.
    pub fn call(&self, report: &CallReport<'_>) {
        for watcher in self.0.watchers.load().iter() {
            watcher.call(report);
        }
    }

    /// Tells those who watch that a caller has got a lease.
    pub fn leased(&self, waited: Duration) {
        if self.any_watches() && !Spent::leased(self.number(), waited) {
            for watcher in self.0.watchers.load().iter() {
                watcher.leased(waited);
            }
        }
    }

    /// Tells those who watch that a lease came back.
    pub fn returned(&self, held: impl FnOnce() -> Duration) {
        if self.any_watches() {
            let held = held();
            if !Spent::returned(self.number(), held) {
                for watcher in self.0.watchers.load().iter() {
                    watcher.returned(held);
                }
            }
        }
    }

    /// Tells these observers from others; never 0.
    pub(crate) fn number(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Adds an observer until the guard is dropped.
    pub fn add_while(&self, observer: Arc<dyn Observer>) -> Observing {
        self.add(Arc::clone(&observer));
        Observing {
            registry: Arc::downgrade(&self.0),
            observer: Arc::downgrade(&observer),
        }
    }

    /// Whether anybody listens.
    pub fn any(&self) -> bool {
        self.0.any.load(Ordering::Relaxed)
    }

    /// Tells everybody; the event is built only if somebody listens.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if self.any() {
            let event = event();
            for observer in self.0.list.load().iter() {
                observer.event(&event);
            }
        }
    }
}

/// An observer that is told until this is dropped. Keeps neither the observer nor the stack alive.
#[must_use = "the observer is removed when this is dropped"]
pub struct Observing {
    registry: Weak<Registry>,
    observer: Weak<dyn Observer>,
}

impl Drop for Observing {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else {
            return;
        };
        let mine = self.observer.as_ptr().cast::<()>();
        registry.change(|list| {
            let others = list.iter().filter(|other| Arc::as_ptr(other).cast::<()>() != mine);
            others.cloned().collect()
        });
    }
}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observing")
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").field("any", &self.any()).finish()
    }
}
