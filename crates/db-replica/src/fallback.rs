//! The share of the primary that reads may have which no replica can serve.

use db_core::{AcquireError, AcquireFailure, Error, Result};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Reads that may wait for their place at once.
const MOST_WAITING: u32 = 1024;

#[derive(Debug)]
pub(crate) struct Fallback {
    places: Arc<Semaphore>,
    size: Mutex<usize>,
    waiting: AtomicU32,
}

/// The places of a share of so many connections: at least one.
pub(crate) fn places(connections: u32, share: f64) -> usize {
    (f64::from(connections) * share).ceil().max(1.0) as usize
}

impl Fallback {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            size: Mutex::new(places),
            waiting: AtomicU32::new(0),
        }
    }

    /// Makes it larger at once, or smaller as places come back.
    pub(crate) fn resize(&self, places: usize) {
        let mut size = self.size.lock();
        if places > *size {
            self.places.add_permits(places - *size);
            *size = places;
        } else {
            *size -= self.places.forget_permits(*size - places);
        }
    }

    /// Waits for a place until `limit`.
    pub(crate) async fn place(&self, limit: Instant) -> Result<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let since = Instant::now();
        let refused = |waited: Duration| Error::from(AcquireError::new(AcquireFailure::NoReplica, waited));
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            return Err(refused(Duration::ZERO));
        }
        let place = timeout_at(limit, self.places.clone().acquire_owned()).await;
        drop(waiting);
        match place {
            Ok(Ok(place)) => Ok(place),
            // Never closed, so only the limit is left.
            Ok(Err(_)) | Err(_) => Err(refused(since.elapsed())),
        }
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_beyond_the_share_wait_and_are_refused() {
        assert_eq!((places(10, 0.2), places(1, 0.2), places(12, 0.2)), (2, 1, 3));
        let fallback = Fallback::new(1);
        let soon = || Instant::now() + Duration::from_millis(100);
        let held = fallback.place(soon()).await.unwrap();
        let error = fallback.place(soon()).await.unwrap_err();
        assert!(matches!(error, Error::Acquire(error) if error.failure == AcquireFailure::NoReplica));
        let (next, ()) = tokio::join!(fallback.place(soon()), async { drop(held) });
        drop(next.unwrap());
        assert_eq!(fallback.waiting.load(Ordering::Relaxed), 0);
        fallback.resize(3);
        assert_eq!(fallback.places.available_permits(), 3);
        fallback.resize(2);
        assert_eq!((fallback.places.available_permits(), *fallback.size.lock()), (2, 2));
    }
}
