//! The duty to read an answer, for oneself and all who wait for it.

use crate::{
    books::Book,
    cache::Cache,
    entry::{Answer, Entry, Freshness, Value},
    flight::Leading,
    key::Key,
    request::{Request, Times},
    store,
    tier::{Sent, Stand},
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
    stand: Option<Stand>,
    /// What is put into the shared store.
    encoded: Option<Vec<u8>>,
}

/// An answer to be kept.
struct New {
    value: Option<Value>,
    weight: u32,
    ttl: Duration,
    negative: bool,
    born: Instant,
    shows: Instant,
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
        let stand = leading
            .as_ref()
            .and_then(|leading| shared.stand(request, leading.snapshot()));
        let may_look = stand.as_ref().is_some_and(|stand| stand.heard.is_some());
        let lead = Self {
            cache: cache.clone(),
            key: request.key,
            statement: request.statement(),
            times,
            watched,
            leading,
            fallback,
            book,
            started: Instant::now(),
            stand,
            encoded: None,
        };
        if !may_look {
            lead.missed();
        }
        lead
    }

    /// It is read from the database.
    fn missed(&self) {
        self.book.misses.fetch_add(1, Relaxed);
        let statement = self.statement;
        self.cache.shared.observers.tell(|| Event::CacheMiss { statement });
    }

    /// Whether the answer is shared with other processes: then it is worth a look, and worth being encoded.
    pub fn is_shared(&self) -> bool {
        self.stand.is_some()
    }

    /// The answer of another process, if there is one that shows all that this process has heard of; `Some(None)` says that
    /// there is no such row. `decode` says `None` to bytes that it can't read. It is kept here as well, and given to all who
    /// wait: then there is nothing left to do. Waits no longer than [`Sharing::timeout`](crate::Sharing::timeout).
    /// Cancel-safe.
    pub async fn look<T: Any + Send + Sync>(
        &mut self,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<Option<Answer<T>>> {
        let heard = self.stand.as_ref()?.heard?;
        let out = self.found(heard, decode).await;
        if out.is_none() {
            self.missed();
        }
        out
    }

    async fn found<T: Any + Send + Sync>(
        &mut self,
        heard: Instant,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<Option<Answer<T>>> {
        let cache = self.cache.clone();
        let tier = cache.shared.tier.get()?;
        let found = tier.get(self.stand.as_ref()?).await?;
        let now = Instant::now();
        let negative = found.negative;
        let ttl = if negative { self.times.negative } else { self.times.ttl };
        let (age, born) = (found.age, now.checked_sub(found.age)?);
        let value = found.value().map(decode);
        if age >= ttl || cache.shared.asked_since(born) || matches!(value, Some(None)) {
            tier.refused();
            return None;
        }
        let value = value.flatten().map(Arc::new);
        tier.hit();
        self.book.shared.fetch_add(1, Relaxed);
        let statement = self.statement;
        cache.shared.observers.tell(|| Event::CacheHit {
            statement,
            age,
            stale: false,
        });
        // What lies there already need not be put there.
        self.stand = None;
        self.keep(New {
            value: value.clone().map(|value| value as Value),
            weight: found.weight,
            ttl,
            negative,
            born,
            shows: heard.max(born),
        });
        Some(value.map(|value| Answer::read_at(value, age, Freshness::Shared, now)))
    }

    /// What the answer is to be put into the shared store as, when it is filled next.
    pub fn encoded(&mut self, bytes: Vec<u8>) {
        self.encoded = Some(bytes);
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
    pub fn fill<T: Any + Send + Sync>(mut self, value: Arc<T>, bytes: usize, negative: bool) -> Answer<T> {
        let ttl = if negative { self.times.negative } else { self.times.ttl };
        self.read(Some(Arc::clone(&value) as Value), bytes, ttl, negative);
        Answer::new(value, Duration::ZERO, Freshness::Read)
    }

    /// There is no such row.
    pub fn nothing(mut self) {
        let ttl = self.times.negative;
        self.read(None, 0, ttl, true);
    }

    /// It was read from the database.
    fn read(&mut self, value: Option<Value>, bytes: usize, ttl: Duration, negative: bool) {
        self.cache.shared.signals.well();
        self.book.filled(self.started.elapsed());
        // Nobody joined: it failed for its first reader, and the answer of this one is its own.
        let Some(leading) = &self.leading else { return };
        let since = leading.since();
        let new = New {
            value,
            weight: store::weight(bytes + leading.snapshot().bytes()),
            ttl,
            negative,
            born: since,
            shows: since,
        };
        self.keep(new);
    }

    /// Keeps an answer, unless something that it depends on has been written since this lead began, and ends it.
    fn keep(&mut self, new: New) {
        let Some(leading) = self.leading.take() else { return };
        let shared = &self.cache.shared;
        let took = self.started.elapsed();
        let config = shared.config.load();
        let jitter = 1.0 - config.jitter * fastrand::f64();
        let snapshot: Arc<Snapshot> = Arc::clone(leading.snapshot());
        let entry = Arc::new(Entry {
            value: new.value,
            weight: new.weight,
            snapshot,
            born: new.born,
            shows: new.shows,
            read: Instant::now(),
            watched: self.watched,
            fresh_for: new.ttl.mul_f64(jitter),
            stale_for: self.times.revalidate.max(self.times.if_error),
            book: Arc::clone(&self.book),
        });
        let fits = u64::from(entry.weight) <= config.max_entry_bytes();
        let current = shared.versions.may_store(&entry.snapshot);
        match (fits, current) {
            (true, true) => {
                shared.store.load().insert(self.key, Arc::clone(&entry));
                self.put(&entry, new.ttl, new.negative);
            }
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

    /// Puts an answer that was read here where other processes find it.
    fn put(&self, entry: &Entry, ttl: Duration, negative: bool) {
        let (Some(tier), Some(stand)) = (self.cache.shared.tier.get(), &self.stand) else {
            return;
        };
        let age = entry.born.elapsed();
        let keep = ttl.saturating_sub(age);
        let value = self.encoded.as_deref();
        if keep.is_zero() || value.is_some() != entry.value.is_some() {
            return;
        }
        tier.put(
            stand,
            &Sent {
                value,
                age,
                keep,
                weight: entry.weight,
                negative,
            },
        );
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
