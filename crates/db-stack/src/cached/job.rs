//! One call of a cached query: its key, its read, and what of its rows is kept.

use crate::{cached::Cached, db::Inner};
use db_cache::{Answer, Begin, Cache, Fetch, Freshness, Key, Lead, Policy, Request};
use db_core::{Call, CausalError, CausalSession, LimitOrigin, Result, Rows, Statement, Target, Tenant};
use sqlx::postgres::PgRow;
use std::{
    any::TypeId,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

/// A statement with everything that decides how it is answered. Owns all of it, so that it can go on in the background.
pub(crate) struct Job {
    inner: Arc<Inner>,
    call: Call,
    statement: Statement,
    policy: Policy,
    pub(crate) key: Option<Key>,
    /// The same for the store that processes share.
    shared: Option<Key>,
    /// The caller's session; reads for all who wait run in one of their own.
    session: Option<Arc<CausalSession>>,
    /// What the answer must show: everything that was committed before.
    since: Option<Instant>,
    /// When it was not found in memory, and when its time is up, whatever it waits for from then on.
    span: OnceLock<(Instant, Instant)>,
}

/// The share of an answer's time by which the node that is read may be behind.
const LAG: u32 = 10;
/// A call that reads at once is limited as it is: its error names the limit that its caller knows.
const WAITED: Duration = Duration::from_millis(1);

impl Job {
    /// `shape` is `None` for what must not be answered from memory.
    /// With `name`, the answer is shared under it with other processes.
    pub(crate) fn new(
        cached: &Cached,
        statement: Statement,
        fetch: Fetch,
        shape: Option<[TypeId; 2]>,
        name: Option<&str>,
    ) -> Self {
        let (db, inner) = (&cached.db, &cached.db.inner);
        let mut statement = inner.telemetry.tagging.on(statement);
        let mut call = db.wishes();
        call.statement = Some(statement.facts().fingerprint());
        let mut policy = cached.policy.clone();
        let mut asked = true;
        if cached.by_class {
            policy.ttl = inner
                .cached
                .policy(&statement, || inner.timeouts.limits(call.class).cache_ttl);
            asked = policy.ttl.is_some();
        }
        let session = call.session.take();
        let since = match session.as_deref().map_or(Ok(None), |session| needs(inner, session)) {
            Ok(since) => since,
            // A read says it, too.
            Err(_) => {
                asked = false;
                None
            }
        };
        // What is known of tables, and heard of writes, is about one database.
        let elsewhere = call.tenant.as_ref().is_some_and(|tenant| tenant.database().is_some());
        let key = shape.filter(|_| asked && !elsewhere).map(|[value, mapper]| {
            let mut key = inner.cached.seed().key();
            key.maybe(call.tenant.as_ref().map(|tenant| tenant.id().as_bytes()))
                .of_type(value)
                .of_type(mapper)
                .fetch(fetch);
            for tag in &policy.tags {
                key.bytes(tag.as_bytes());
            }
            key.statement(&mut statement)
        });
        let shared = name.zip(key).and_then(|(name, _)| {
            let mut key = inner.cached.cache.shared_key()?;
            let tenant = call.tenant.as_ref();
            let confined = tenant.and_then(Tenant::begin);
            key.bytes(name.as_bytes())
                .maybe(tenant.map(|tenant| tenant.id().as_bytes()))
                .maybe(confined.as_ref().map(|begin| begin.as_str().as_bytes()))
                .fetch(fetch);
            Some(key.statement(&mut statement))
        });
        call.session = match (&session, key) {
            // What comes of it is for others as well, and may run on after its caller has gone.
            (Some(session), Some(_)) => Some(Arc::new(CausalSession::from_seen(session.seen()))),
            _ => session.clone(),
        };
        Self {
            inner: Arc::clone(inner),
            call,
            statement,
            policy,
            key,
            shared,
            session,
            since,
            span: OnceLock::new(),
        }
    }

    fn request(&self, key: Key) -> Request<'_> {
        let mut request = Request::new(key, self.statement.facts(), &self.policy);
        request.class = self.call.class;
        request.since = self.since;
        request.shared = self.shared;
        if self.may_lag() {
            let config = self.inner.cached.cache.config();
            let ttl = self.policy.ttl.unwrap_or(config.ttl);
            let negative = self.policy.negative_ttl.unwrap_or(config.negative_ttl);
            request.lag = ttl.min(negative) / LAG;
        }
        request
    }

    /// The answer, where there is one; the limits of the wait for one are only looked up where there is not.
    pub(crate) async fn begin<T: Send + Sync + 'static>(&self, cache: &Cache, key: Key) -> Result<Begin<T>> {
        let mut request = self.request(key);
        if let Some(hit) = cache.hit(&request) {
            return Ok(hit);
        }
        let limit = self.limit();
        request.limit = Some(limit);
        let now = Instant::now();
        let _ = self.span.set((now, now + limit.0));
        cache.begin(&request).await
    }

    /// How long the caller waits for another caller's read; its own is limited below.
    fn limit(&self) -> (Duration, LimitOrigin) {
        let class = self.inner.timeouts.limits(self.call.class).timeout;
        let mut limit = (class, LimitOrigin::Class);
        if let Some(timeout) = self.call.timeout.filter(|timeout| *timeout < limit.0) {
            limit = (timeout, LimitOrigin::Call);
        }
        if let Some(deadline) = self.call.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left < limit.0 {
                limit = (left, LimitOrigin::Deadline);
            }
        }
        limit
    }

    /// Whether a replica may be read: one that shows what is asked of it.
    fn may_lag(&self) -> bool {
        let inner = &*self.inner;
        inner.replicas.cluster().is_active() && self.call.target != Target::Primary && !inner.cached.has_lent()
    }

    /// Asks the database, for all who wait.
    pub(crate) async fn read(&self, lead: &Lead) -> Result<Vec<PgRow>> {
        match self.may_lag() {
            true => self.run(Target::Since(lead.since())).await,
            false => self.run(Target::Primary).await,
        }
    }

    /// Asks the database for this caller alone: what is known to have been written is in the answer, as in a kept one.
    pub(crate) async fn alone(&self) -> Result<Vec<PgRow>> {
        match self.key {
            Some(_) if self.may_lag() => self.run(Target::Fresh(Duration::ZERO)).await,
            Some(_) => self.run(Target::Primary).await,
            None => self.run(self.call.target).await,
        }
    }

    async fn run(&self, target: Target) -> Result<Vec<PgRow>> {
        // Who has waited for another caller's read, or reads a second time, has so much less time left.
        let ends = self.span.get().filter(|(began, _)| began.elapsed() >= WAITED);
        let rows: Rows = if target == self.call.target && ends.is_none() {
            self.inner.stack.call(&self.call, &self.statement).await?
        } else {
            let mut call = self.call.clone();
            call.target = target;
            if let Some((_, ends)) = ends {
                call = call.with_deadline(*ends);
            }
            self.inner.stack.call(&call, &self.statement).await?
        };
        Ok(rows.rows)
    }

    /// The caller's session has been given an answer that was read by then.
    pub(crate) fn gave(&self, read_by: Instant) {
        if let (Some(session), Some(_)) = (&self.session, self.key) {
            session.saw_answer(read_by);
        }
    }
}

/// A moment before which everything was committed that the session has seen, as far as it is known without asking
/// anybody.
fn needs(inner: &Inner, session: &CausalSession) -> Result<Option<Instant>, CausalError> {
    let seen = session.seen();
    let cluster = inner.replicas.cluster();
    if !cluster.is_active() {
        return Ok(seen.ran.max(seen.brought.map(|(_, at)| at)));
    }
    if let Some(token) = seen.token {
        cluster.passed(token)?;
    }
    let brought = match seen.brought {
        // It may have been made long ago, and what it has seen be in memory long since.
        Some((token, at)) => Some(cluster.passed(token)?.map_or(at, |passed| passed.min(at))),
        None => None,
    };
    Ok(seen.ran.max(brought))
}

/// How much of a result a caller takes, and what of it is kept.
pub(crate) trait Shape<V>: Send + Sync + 'static {
    /// What is kept.
    type Stored: Send + Sync + 'static;
    const FETCH: Fetch;

    /// `None` when there is no such row.
    fn keep(values: Vec<V>) -> Option<Self::Stored>;

    /// Whether it says that there is nothing.
    fn is_negative(stored: &Self::Stored) -> bool;
}

pub(crate) struct All;
pub(crate) struct First;

impl<V: Send + Sync + 'static> Shape<V> for All {
    type Stored = Vec<V>;
    const FETCH: Fetch = Fetch::All;

    fn keep(mut values: Vec<V>) -> Option<Vec<V>> {
        values.shrink_to_fit();
        Some(values)
    }

    fn is_negative(stored: &Vec<V>) -> bool {
        stored.is_empty()
    }
}

impl<V: Send + Sync + 'static> Shape<V> for First {
    type Stored = V;
    const FETCH: Fetch = Fetch::First;

    fn keep(values: Vec<V>) -> Option<V> {
        values.into_iter().next()
    }

    fn is_negative(_: &V) -> bool {
        false
    }
}

/// An answer that is nobody else's.
pub(crate) fn own<T>(stored: Option<T>) -> Option<Answer<T>> {
    stored.map(|value| Answer::new(Arc::new(value), Duration::ZERO, Freshness::Read))
}
