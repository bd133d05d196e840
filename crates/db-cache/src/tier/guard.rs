//! Keeps the store's troubles from its callers: every call has a bound, and after a few failures nobody waits for it.

use super::{Tier, TierError};
use db_core::{Event, Observers};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Calls under way at a time; more are spared.
const MOST: usize = 64;
/// Failures in a row after which it is left alone.
const FAILURES: u32 = 3;
/// For how long, at first and at most; doubled each time.
const ALONE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

pub(crate) struct Guard {
    tier: Arc<dyn Tier>,
    timeout: Duration,
    observers: Observers,
    permits: Semaphore,
    start: Instant,
    failed: AtomicU32,
    /// In milliseconds since the start; 0 when it is not left alone.
    alone_until: AtomicU64,
    /// Somebody tries whether it is back.
    trying: AtomicBool,
    failures: AtomicU64,
    spared: AtomicU64,
}

impl Guard {
    pub(crate) fn new(tier: Arc<dyn Tier>, timeout: Duration, observers: Observers) -> Self {
        Self {
            tier,
            timeout,
            observers,
            permits: Semaphore::new(MOST),
            start: Instant::now(),
            failed: AtomicU32::new(0),
            alone_until: AtomicU64::new(0),
            trying: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            spared: AtomicU64::new(0),
        }
    }

    /// Failures, calls spared, and whether it is left alone now.
    pub(crate) fn figures(&self) -> (u64, u64, bool) {
        (
            self.failures.load(Relaxed),
            self.spared.load(Relaxed),
            self.alone_until.load(Relaxed) != 0,
        )
    }

    /// Asks the store; `None` when it failed, took too long, or was not asked at all. Cancel-safe.
    pub(crate) async fn run<'a, T>(
        &'a self,
        ask: impl FnOnce(&'a dyn Tier) -> BoxFuture<'a, Result<T, TierError>>,
    ) -> Option<T> {
        let (Ok(_permit), Some(_admitted)) = (self.permits.try_acquire(), self.admit()) else {
            self.spared.fetch_add(1, Relaxed);
            return None;
        };
        match timeout(self.timeout, ask(&*self.tier)).await {
            Ok(Ok(value)) => {
                self.worked();
                Some(value)
            }
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                self.tier.suspect();
                self.failed(&TierError::new("no answer in time"));
                None
            }
        }
    }

    fn admit(&self) -> Option<Admitted<'_>> {
        let until = self.alone_until.load(Ordering::Acquire);
        let probe = until != 0;
        if probe && (self.now() < until || self.trying.swap(true, Ordering::AcqRel)) {
            return None;
        }
        Some(Admitted { guard: self, probe })
    }

    fn worked(&self) {
        let failed = self.failed.swap(0, Ordering::AcqRel);
        self.alone_until.store(0, Ordering::Release);
        if failed >= FAILURES {
            tracing::info!("the shared tier is back");
            self.observers.tell(|| Event::SharedTier { away: false });
        }
    }

    fn failed(&self, error: &TierError) {
        self.failures.fetch_add(1, Relaxed);
        let failed = self.failed.fetch_add(1, Ordering::AcqRel) + 1;
        if failed < FAILURES {
            return;
        }
        let doubled = ALONE.0 * 2_u32.saturating_pow((failed - FAILURES).min(10));
        let pause = doubled.min(ALONE.1).mul_f64(0.5 + 0.5 * fastrand::f64());
        let until = self.now() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.alone_until.store(until.max(1), Ordering::Release);
        if failed == FAILURES {
            tracing::warn!(%error, "the shared tier is left alone for a while: the database is asked instead");
            self.observers.tell(|| Event::SharedTier { away: true });
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A call under way. One that tries whether the store is back makes room for the next when it ends, however it ends.
struct Admitted<'a> {
    guard: &'a Guard,
    probe: bool,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.guard.trying.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Kept;
    use std::sync::atomic::AtomicUsize;

    /// Answers, fails or hangs, as it is told.
    #[derive(Default)]
    struct Moody {
        mood: AtomicUsize,
        asked: AtomicUsize,
    }

    impl Tier for Arc<Moody> {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Kept>, TierError>> {
            self.asked.fetch_add(1, Relaxed);
            Box::pin(async {
                match self.mood.load(Relaxed) {
                    0 => Ok(None),
                    1 => Err(TierError::new("no")),
                    _ => std::future::pending().await,
                }
            })
        }
        fn put<'a>(&'a self, _: &'a str, _: &'a [u8], _: Duration) -> BoxFuture<'a, Result<(), TierError>> {
            Box::pin(async { Ok(()) })
        }
        fn add<'a>(&'a self, _: &'a str, _: &'a [u8], _: Duration) -> BoxFuture<'a, Result<(), TierError>> {
            Box::pin(async { Ok(()) })
        }
        fn list<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, TierError>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_or_hangs_is_left_alone_and_tried_again() {
        let ms = Duration::from_millis(1);
        for mood in [1, 2] {
            let moody = Arc::new(Moody::default());
            let guard = Guard::new(Arc::new(Arc::clone(&moody)), 50 * ms, Observers::default());
            let get = async || guard.run(|tier| tier.get("k")).await;
            assert_eq!(get().await, Some(None));
            moody.mood.store(mood, Relaxed);
            let began = Instant::now();
            for _ in 0..100 {
                assert_eq!(get().await, None);
            }
            assert!(began.elapsed() <= 3 * 50 * ms, "{:?}", began.elapsed());
            assert_eq!(moody.asked.load(Relaxed), 4, "three of a hundred");
            assert!(guard.figures().2);
            tokio::time::advance(300 * ms).await;
            assert_eq!(get().await, None, "one tries");
            assert_eq!(get().await, None);
            assert_eq!(moody.asked.load(Relaxed), 5);
            moody.mood.store(0, Relaxed);
            tokio::time::advance(600 * ms).await;
            assert_eq!(get().await, Some(None));
            assert!(!guard.figures().2);
        }
    }
}
