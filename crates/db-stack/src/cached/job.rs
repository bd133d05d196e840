//! One call of a cached query: its key, its read, and what of its rows is kept.

use crate::{
    Db,
    cached::{Cached, query},
};
use db_cache::{Answer, Fetch, Freshness, Key, Policy, Position, Request};
use db_core::{Call, LimitOrigin, Result, Rows, Statement, Target, row_bytes};
use sqlx::postgres::PgRow;
use std::{any::TypeId, sync::Arc, time::Duration};
use tokio::time::Instant;

/// A statement with everything that decides how it is answered. Owns all of it, so that it can go on in the background.
pub(crate) struct Job {
    pub(crate) db: Db,
    pub(crate) call: Call,
    pub(crate) statement: Statement,
    pub(crate) policy: Policy,
    pub(crate) key: Option<Key>,
}

impl Job {
    /// `shape` is `None` for what must not be answered from memory.
    pub(crate) fn new(cached: &Cached, statement: Statement, fetch: Fetch, shape: Option<[TypeId; 2]>) -> Self {
        let db = &cached.db;
        let statement = db.inner.telemetry.tagging.on(statement);
        let mut call = db.wishes();
        call.statement = Some(statement.facts().fingerprint());
        let mut policy = cached.policy.clone();
        let mut asked = true;
        if cached.by_class {
            policy.ttl = db
                .inner
                .cached
                .policy(&statement, || db.inner.timeouts.limits(call.class).cache_ttl);
            asked = policy.ttl.is_some();
        }
        // What a session has seen without a known position is in no answer's account.
        let seen = call.session.as_ref().map(|session| session.seen()).unwrap_or_default();
        asked &= seen.primary.is_none() && seen.replica.is_none();
        // What it has seen may be newer than any answer in memory.
        asked &= call.session.as_ref().is_none_or(|session| session.seen().is_nothing());
        let key = shape.filter(|_| asked).map(|[value, mapper]| {
            let mut key = db
                .inner
                .cached
                .seed()
                .key()
                .maybe(call.tenant.as_ref().map(|tenant| tenant.id().as_bytes()))
                .of_type(value)
                .of_type(mapper)
                .fetch(fetch);
            for tag in &policy.tags {
                key = key.bytes(tag.as_bytes());
            }
            key.bytes(statement.sql().as_bytes()).finish(&statement.arguments())
        });
        if key.is_some() {
            // A replica may not have replayed yet what has dropped the answer before this one.
            call.target = Target::Primary;
        }
        if key.is_some() {
            // A replica may not have what has been heard of already.
            call.target = Target::Primary;
        }
        Self {
            db: db.clone(),
            call,
            statement,
            policy,
            key,
        }
    }

    pub(crate) fn request(&self, key: Key) -> Request<'_> {
        let mut request = Request::new(key, self.statement.facts(), &self.policy);
        request.class = self.call.class;
        let seen = self.call.session.as_ref().and_then(|session| session.seen().token);
        request.needs = seen.map(|token| Position {
            epoch: token.timeline.into(),
            at: token.lsn.0,
        });
        request.limit = Some(self.limit());
        request
    }

    /// How long the caller waits for another caller's read; its own is limited below.
    fn limit(&self) -> (Duration, LimitOrigin) {
        let class = self.db.inner.timeouts.limits(self.call.class).timeout;
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

    /// Asks the database.
    pub(crate) async fn read(&self) -> Result<Vec<PgRow>> {
        let rows: Rows = self.db.inner.stack.call(&self.call, &self.statement).await?;
        Ok(rows.rows)
    }
}

/// About what values of this type take that were made of these rows.
pub(crate) fn bytes<V: 'static>(rows: &[PgRow]) -> usize {
    let values: usize = rows.iter().map(row_bytes).sum();
    if query::is_row::<V>() {
        (values + rows.len() * query::ROW).max(query::READ_BUFFER)
    } else {
        values + rows.len() * size_of::<V>()
    }
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
