//! The duty to read an answer, for oneself and all who wait for it.

use crate::{
    books::Book,
    cache::Cache,
    entry::{Answer, Entry, Freshness, Value},
    flight::Leading,
    key::Key,
    request::{Request, Times},
    store,
    versions::Snapshot,
};
use db_core::{AcquireFailure, Error, Event, Fingerprint, SqlState};
use std::{
    any::Any,
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// The duty to read. Ended by [`fill`](Self::fill), [`nothing`](Self::nothing) or [`fail`](Self::fail); dropped without
/// any of them, it passes to one of those who wait.
pub struct Lead {
    cache: Cache,
    key: Key,
    statement: Option<Fingerprint>,
    times: Times,
    watched: bool,
    leading: Option<Leading>,
    /// What may be given when the read fails.
    fallback: Option<Arc<Entry>>,
    book: Arc<Book>,
    started: Instant,
}

/// How a read ended that had something to fall back on.
#[derive(Debug)]
pub enum Outcome<R> {
    /// It ended.
    Done(R),
    /// It was given up, since the database is in trouble and there is an answer past its time: [`stale`](Lead::stale)
    /// gives it.
    Trouble,
}

impl Lead {
    pub(crate) fn new(
        cache: &Cache,
        request: &Request<'_>,
        times: Times,
        watched: bool,
        leading: Option<Leading>,
        fallback: Option<Arc<Entry>>,
    ) -> Self {
        let shared = &cache.shared;
        let book = shared
            .books
            .book(request.statement(), shared.config.load().max_statements);
        book.misses.fetch_add(1, Relaxed);
        let statement = request.statement();
        shared.observers.tell(|| Event::CacheMiss { statement });
        Self {
            cache: cache.clone(),
            key: request.key,
            statement,
            times,
            watched,
            leading,
            fallback,
            book,
            started: Instant::now(),
        }
    }

    /// The read must show everything that was committed before this moment: the answer counts as that old. On the
    /// primary any read does; on a replica, one that begins once it has replayed a position of the primary's that was
    /// asked for then or later.
    pub fn since(&self) -> Instant {
        self.leading.as_ref().map_or(self.started, Leading::since)
    }

    /// Runs the read; with something to fall back on it is given up as soon as the database is known to be in trouble.
    pub async fn run<F: Future>(&self, read: F) -> Outcome<F::Output> {
        if self.fallback.is_none() {
            return Outcome::Done(read.await);
        }
        tokio::select! {
            biased;
            out = read => Outcome::Done(out),
            () = self.cache.shared.signals.until_trouble() => Outcome::Trouble,
        }
    }

    /// There is an answer, whose value takes about `bytes`. It is kept unless something that it read has been written
    /// since the read began, and given to all who wait.
    pub fn fill<T: Any + Send + Sync>(self, value: Arc<T>, bytes: usize, negative: bool) -> Answer<T> {
        let ttl = if negative { self.times.negative } else { self.times.ttl };
        self.store(Some(Arc::clone(&value) as Value), bytes, ttl);
        Answer::new(value, Duration::ZERO, Freshness::Read)
    }

    /// There is no such row.
    pub fn nothing(self) {
        let ttl = self.times.negative;
        self.store(None, 0, ttl);
    }

    fn store(mut self, value: Option<Value>, bytes: usize, ttl: Duration) {
        let shared = &self.cache.shared;
        shared.signals.well();
        let took = self.started.elapsed();
        self.book.filled(took);
        // Nobody joined: it failed for its first reader, and the answer of this one is its own.
        let Some(leading) = self.leading.take() else { return };
        let config = shared.config.load();
        let jitter = 1.0 - config.jitter * fastrand::f64();
        let snapshot: Arc<Snapshot> = Arc::clone(leading.snapshot());
        let entry = Arc::new(Entry {
            value,
            weight: store::weight(bytes + snapshot.bytes()),
            snapshot,
            born: leading.since(),
            read: Instant::now(),
            watched: self.watched,
            fresh_for: ttl.mul_f64(jitter),
            stale_for: self.times.revalidate.max(self.times.if_error),
            book: Arc::clone(&self.book),
        });
        let fits = u64::from(entry.weight) <= config.max_entry_bytes();
        let current = shared.versions.may_store(&entry.snapshot);
        match (fits, current) {
            (true, true) => shared.store.load().insert(self.key, Arc::clone(&entry)),
            (false, _) => _ = shared.books.too_large.fetch_add(1, Relaxed),
            (true, false) => _ = shared.books.outdated.fetch_add(1, Relaxed),
        }
        shared.observers.tell(|| Event::CacheFilled {
            statement: self.statement,
            took,
            bytes: u64::from(entry.weight),
            kept: fits && current,
        });
        leading.land(&entry);
    }

    /// The read failed.
    ///
    /// # Errors
    /// The same error, unless the database can't be reached and there is an answer within `stale_if_error`.
    pub fn fail<T: Any + Send + Sync>(mut self, error: Error) -> Result<Option<Answer<T>>, Error> {
        self.book.failed.fetch_add(1, Relaxed);
        if is_outage(&error) {
            let signals = &self.cache.shared.signals;
            // The heartbeat knows better, where there is one.
            if !(is_local(&error) && signals.listening() == Some(true)) {
                signals.in_trouble();
            }
            if let Some(answer) = self.stale() {
                return Ok(answer);
            }
        }
        // Its own limit, or its own place in a queue: the next one may fare better. Any other error is everybody's own
        // to find out.
        if let Some(leading) = self.leading.take_if(|_| !is_own(&error)) {
            leading.fail();
        }
        Err(error)
    }

    /// The answer past its time, if there is one: `Some(None)` says that there was no such row.
    pub fn stale<T: Any + Send + Sync>(&self) -> Option<Option<Answer<T>>> {
        let entry = self.fallback.as_ref()?;
        let shared = &self.cache.shared;
        if !shared.versions.is_current(&entry.snapshot) {
            return None;
        }
        let age = entry.born.elapsed();
        let answer = match &entry.value {
            Some(value) => {
                let value: Arc<T> = Arc::clone(value).downcast().ok()?;
                Some(Answer::read_at(value, age, Freshness::StaleIfError, entry.read))
            }
            None => None,
        };
        entry.book.stale_if_error.fetch_add(1, Relaxed);
        shared.observers.tell(|| Event::CacheHit {
            statement: self.statement,
            age,
            stale: true,
        });
        Some(answer)
    }
}

/// Whether an error says that the database can't be reached or does not answer in time: then an answer past its time is
/// better than none. An open breaker is such an error, a refusal of the statement is not.
pub fn is_outage(error: &Error) -> bool {
    match error {
        Error::Network { .. } | Error::Timeout(_) | Error::Breaker(_) => true,
        Error::Acquire(acquire) => !matches!(
            acquire.failure,
            AcquireFailure::Refused | AcquireFailure::Closed | AcquireFailure::Nested
        ),
        Error::Server(server) => server.is_fatal() || server.state().counts_against_breaker(),
        _ => false,
    }
}

/// Whether an outage may be no more than a slow statement, or more callers than connections.
fn is_local(error: &Error) -> bool {
    match error {
        Error::Timeout(_) => true,
        Error::Acquire(acquire) => matches!(
            acquire.failure,
            AcquireFailure::TimedOut | AcquireFailure::QueueFull | AcquireFailure::Shed(_)
        ),
        _ => false,
    }
}

/// Whether an error is about the caller's own limits, so that another caller may fare better.
fn is_own(error: &Error) -> bool {
    match error {
        Error::Timeout(_) | Error::Acquire(_) | Error::Breaker(_) | Error::Causal(_) => true,
        Error::Server(server) => server.state() == SqlState::QueryCanceled,
        _ => false,
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("key", &self.key).finish_non_exhaustive()
    }
}
