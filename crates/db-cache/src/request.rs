//! What a caller asks for, and what it is told to do.

use crate::{
    cache::Cache,
    catalogue::Uncacheable,
    config::CacheConfig,
    entry::{Answer, Entry, Freshness},
    flight::{Landing, Role},
    key::Key,
    lead::Lead,
};
use db_core::{Error, Event, Fingerprint, LimitOrigin, QueryClass, StatementFacts, TimeoutError, config::Mode};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::Ordering::{self, Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long a call waits until the schema is known, before it goes to the database by itself.
const READY: Duration = Duration::from_secs(1);

/// How long an answer may be given to this caller.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Policy {
    /// How long it is fresh; `None`: as configured.
    pub ttl: Option<Duration>,
    /// How long "no such row" is believed; `None`: as configured, and never longer than the time of an answer.
    pub negative_ttl: Option<Duration>,
    /// For how long after that it is still given while it is read again; `None`: as configured.
    pub stale_while_revalidate: Option<Duration>,
    /// For how long after that it is still given while the database can't be reached; `None`: as configured.
    pub stale_if_error: Option<Duration>,
    /// Names under which it can be dropped.
    pub tags: Vec<Box<str>>,
}

/// One call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// Which answer. Tags belong in it, too: see the policy.
    pub key: Key,
    /// What is known of the statement.
    pub facts: &'a StatementFacts,
    /// The times and tags.
    pub policy: &'a Policy,
    /// The same answer's key for the store that is shared with other processes: [`Cache::shared_key`]. It holds everything
    /// that decides the answer but for what the server says of the session. Default: it is not shared.
    pub shared: Option<Key>,
    /// The answer must show everything that was committed before this moment. Default: nothing of the kind.
    pub since: Option<Instant>,
    /// How far behind the node may be that is read, as long as it shows the latest write that was heard of; the answer
    /// then counts as that much older. Default zero: it is read on the primary.
    pub lag: Duration,
    /// The caller's class, for its error.
    pub class: QueryClass,
    /// How long the caller waits for another caller's read, and by which limit.
    pub limit: Option<(Duration, LimitOrigin)>,
}

impl<'a> Request<'a> {
    /// A call without a limit that has seen nothing yet.
    pub fn new(key: Key, facts: &'a StatementFacts, policy: &'a Policy) -> Self {
        Self {
            key,
            facts,
            policy,
            shared: None,
            since: None,
            lag: Duration::ZERO,
            class: QueryClass::default(),
            limit: None,
        }
    }

    pub(crate) fn statement(&self) -> Option<Fingerprint> {
        Some(self.facts.fingerprint())
    }

    /// What a read that begins at `now` has to show.
    fn shows(&self, now: Instant) -> Instant {
        let least = now.checked_sub(self.lag).unwrap_or(now);
        self.since.map_or(least, |since| since.max(least))
    }
}

/// What a caller is to do.
#[derive(Debug)]
pub enum Begin<T> {
    /// Nothing: here is the answer.
    Hit(Answer<T>),
    /// Here is an answer past its time; somebody should read it again, and may do so after the caller has gone on.
    Refresh(Answer<T>, Lead),
    /// To read, for itself and all who wait.
    Read(Lead),
    /// To read for itself alone: the answer is not kept.
    Bypass(Uncacheable),
    /// Nothing: there is no such row.
    Nothing(Answer<()>),
}

/// The times of one request, with the configuration's for those that it does not name.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) ttl: Duration,
    pub(crate) negative: Duration,
    pub(crate) revalidate: Duration,
    pub(crate) if_error: Duration,
}

impl Times {
    pub(crate) fn of(policy: &Policy, config: &CacheConfig) -> Self {
        let ttl = policy.ttl.unwrap_or(config.ttl);
        let or = |asked: Option<Duration>, set: Option<Duration>| asked.or(set).unwrap_or_default();
        Self {
            ttl,
            negative: policy.negative_ttl.unwrap_or(config.negative_ttl).min(ttl),
            revalidate: or(policy.stale_while_revalidate, config.stale_while_revalidate),
            if_error: or(policy.stale_if_error, config.stale_if_error),
        }
    }
}

enum Found {
    Fresh(Arc<Entry>),
    Revalidate(Arc<Entry>),
    /// Good only while the database can't be reached.
    IfError(Arc<Entry>),
    Nothing,
}

impl Cache {
    /// The answer, if it is in memory and within its time. Waits for nothing: the quick way to the commonest outcome of
    /// [`begin`](Self::begin), which says everything else.
    pub fn hit<T: Any + Send + Sync>(&self, request: &Request<'_>) -> Option<Begin<T>> {
        let config = self.shared.config.load();
        if config.mode != Mode::Enforce {
            return None;
        }
        let times = Times::of(request.policy, &config);
        self.fresh(request, &times).map(|(_, answer)| answer)
    }

    /// Looks an answer up, joins the read that is under way, or says that the caller is to read. Cancel-safe: a dropped
    /// wait leaves the others as they are.
    ///
    /// # Errors
    /// [`Error::Timeout`] when another caller's read did not end within the limit.
    pub async fn begin<T: Any + Send + Sync>(&self, request: &Request<'_>) -> Result<Begin<T>, Error> {
        let shared = &*self.shared;
        let config = shared.config.load();
        if config.mode == Mode::Off {
            return Ok(self.bypass(Uncacheable::Off));
        }
        let started = Instant::now();
        let times = Times::of(request.policy, &config);
        let fallback = match self.find(request, &times, started) {
            Found::Fresh(entry) if config.mode == Mode::Enforce => {
                entry.book.hits.fetch_add(1, Relaxed);
                if let Some(answer) = self.answer(request, &entry, Freshness::Fresh, started) {
                    return Ok(answer);
                }
                None
            }
            Found::Fresh(entry) => {
                entry.book.would_hit.fetch_add(1, Relaxed);
                None
            }
            Found::Revalidate(entry) if config.mode == Mode::Enforce => {
                entry.book.stale.fetch_add(1, Relaxed);
                if let Some(answer) = self.revalidate(request, &entry, times, started) {
                    return Ok(answer);
                }
                None
            }
            Found::IfError(entry) if config.mode == Mode::Enforce => Some(entry),
            _ => None,
        };
        drop(config);
        Box::pin(self.miss(request, times, fallback, started)).await
    }

    fn find(&self, request: &Request<'_>, times: &Times, now: Instant) -> Found {
        let shared = &*self.shared;
        let Some(entry) = shared.store.load().get(request.key) else {
            return Found::Nothing;
        };
        if !shared.versions.is_current(&entry.snapshot) {
            return Found::Nothing;
        }
        if let Some(since) = request.since {
            // A watched table of which nothing was heard has not been written.
            let heard = entry.watched.then(|| shared.signals.heard_all_before()).flatten();
            if entry.born.max(heard.unwrap_or(entry.born)) < since {
                return Found::Nothing;
            }
        }
        let age = now.saturating_duration_since(entry.born);
        let limit = match entry.value {
            Some(_) => times.ttl,
            None => times.negative,
        };
        let fresh_for = entry.fresh_for.min(limit);
        let verified = shared.signals.verified(now);
        match age.saturating_sub(fresh_for) {
            Duration::ZERO if verified => Found::Fresh(entry),
            over if verified && over < times.revalidate => Found::Revalidate(entry),
            over if over < times.if_error => Found::IfError(entry),
            _ => Found::Nothing,
        }
    }

    /// The answer past its time, and the duty to read it again unless somebody does.
    fn revalidate<T: Any + Send + Sync>(
        &self,
        request: &Request<'_>,
        entry: &Arc<Entry>,
        times: Times,
        now: Instant,
    ) -> Option<Begin<T>> {
        let answer = self.answer(request, entry, Freshness::Revalidating, now)?;
        let Begin::Hit(answer) = answer else {
            return Some(answer);
        };
        let shared = &*self.shared;
        let Ok((places, watched)) = shared.places(request.facts, &request.policy.tags) else {
            return Some(Begin::Hit(answer));
        };
        let snapshot = shared.versions.snapshot(&places);
        let leading = shared
            .flights
            .try_lead(request.key, request.shows(now), &shared.versions, snapshot);
        Some(match leading {
            Some(leading) => {
                let lead = Lead::new(self, request, times, watched, Some(leading), Some(Arc::clone(entry)));
                Begin::Refresh(answer, lead)
            }
            None => Begin::Hit(answer),
        })
    }

    async fn miss<T: Any + Send + Sync>(
        &self,
        request: &Request<'_>,
        times: Times,
        fallback: Option<Arc<Entry>>,
        started: Instant,
    ) -> Result<Begin<T>, Error> {
        let shared = &*self.shared;
        if let Some(entry) = fallback.as_ref().filter(|_| shared.signals.trouble())
            && let Some(answer) = self.stale(request, entry, started)
        {
            return Ok(answer);
        }
        let places = match shared.places(request.facts, &request.policy.tags) {
            Err(Uncacheable::Unready) => {
                let limit = request.limit.map_or(READY, |(limit, _)| READY.min(limit));
                self.ready(limit).await;
                shared.places(request.facts, &request.policy.tags)
            }
            places => places,
        };
        let (places, watched) = match places {
            Ok(places) => places,
            Err(reason) => return Ok(self.bypass(reason)),
        };
        let snapshot = || shared.versions.snapshot(&places);
        // Waiting for the schema may have taken a while.
        let shows = request.shows(Instant::now());
        let role = shared
            .flights
            .join(request.key, request.since, shows, &shared.versions, snapshot);
        let lead = |leading| {
            let lead = Lead::new(self, request, times, watched, leading, fallback.clone());
            Ok(Begin::Read(lead))
        };
        let waiting = match role {
            Role::Lead(leading) => {
                // A read that ended between the look-up and here has left its answer before it left the list.
                if shared.config.load().mode == Mode::Enforce
                    && let Some((entry, answer)) = self.fresh(request, &times)
                {
                    leading.land(&entry);
                    return Ok(answer);
                }
                return lead(Some(leading));
            }
            Role::Wait(waiting) => waiting,
        };
        let landing = waiting.landing(shows, snapshot);
        let Some(landing) = self.within(request, fallback.is_some(), landing).await else {
            if let Some(answer) = fallback.as_ref().and_then(|entry| self.stale(request, entry, started)) {
                return Ok(answer);
            }
            return Err(timed_out(request, started.elapsed()));
        };
        match landing {
            Landing::Lead(leading) => lead(Some(leading)),
            Landing::Alone => lead(None),
            // Another process had read it before something that this caller has seen.
            Landing::Entry(entry) if request.since.is_some_and(|since| entry.shows < since) => lead(None),
            Landing::Entry(entry) => {
                entry.book.coalesced.fetch_add(1, Relaxed);
                let statement = request.statement();
                let waited = started.elapsed();
                shared.observers.tell(|| Event::CacheCoalesced { statement, waited });
                match to_answer(&entry, Freshness::Joined, Instant::now()) {
                    Some(answer) => Ok(answer),
                    None => lead(None),
                }
            }
        }
    }

    /// The answer within its time.
    fn fresh<T: Any + Send + Sync>(&self, request: &Request<'_>, times: &Times) -> Option<(Arc<Entry>, Begin<T>)> {
        let now = Instant::now();
        let Found::Fresh(entry) = self.find(request, times, now) else {
            return None;
        };
        let answer = self.answer(request, &entry, Freshness::Fresh, now)?;
        entry.book.hits.fetch_add(1, Relaxed);
        Some((entry, answer))
    }

    /// Waits for another caller's read: as long as the caller may, or, with something to fall back on, until the
    /// database is known to be in trouble.
    async fn within(
        &self,
        request: &Request<'_>,
        fallback: bool,
        landing: impl Future<Output = Landing>,
    ) -> Option<Landing> {
        let trouble = async {
            if fallback {
                self.shared.signals.until_trouble().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let limited = async {
            match request.limit {
                Some((limit, _)) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            landing = landing => Some(landing),
            () = trouble => None,
            () = limited => None,
        }
    }

    /// An answer past its time, since the database can't be reached.
    pub(crate) fn stale<T: Any + Send + Sync>(
        &self,
        request: &Request<'_>,
        entry: &Arc<Entry>,
        now: Instant,
    ) -> Option<Begin<T>> {
        entry.book.stale_if_error.fetch_add(1, Relaxed);
        self.answer(request, entry, Freshness::StaleIfError, now)
    }

    fn answer<T: Any + Send + Sync>(
        &self,
        request: &Request<'_>,
        entry: &Arc<Entry>,
        freshness: Freshness,
        now: Instant,
    ) -> Option<Begin<T>> {
        self.shared.observers.tell(|| Event::CacheHit {
            statement: request.statement(),
            age: now.saturating_duration_since(entry.born),
            stale: freshness != Freshness::Fresh,
        });
        to_answer(entry, freshness, now)
    }

    fn bypass<T>(&self, reason: Uncacheable) -> Begin<T> {
        self.shared.books.uncacheable(reason);
        self.shared.in_use.store(true, Ordering::SeqCst);
        Begin::Bypass(reason)
    }
}

/// `None` only when two answers of different types share a key.
fn to_answer<T: Any + Send + Sync>(entry: &Entry, freshness: Freshness, now: Instant) -> Option<Begin<T>> {
    let age = now.saturating_duration_since(entry.born);
    match &entry.value {
        Some(value) => {
            let value: Arc<T> = Arc::clone(value).downcast().ok()?;
            Some(Begin::Hit(Answer::read_at(value, age, freshness, entry.read)))
        }
        None => {
            let nothing = Answer::read_at(Arc::new(()), age, freshness, entry.read);
            Some(Begin::Nothing(nothing))
        }
    }
}

fn timed_out(request: &Request<'_>, elapsed: Duration) -> Error {
    let (limit, origin) = request.limit.unwrap_or((elapsed, LimitOrigin::Call));
    TimeoutError::new(request.class, origin, limit, elapsed)
        .with_statement(request.statement())
        .into()
}
