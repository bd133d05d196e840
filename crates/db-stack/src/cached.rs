//! Answers from the cache: `db.cached(ttl).fetch_all(query)`, for every kind of sqlx query.

mod fetch;
mod handle;
mod hooks;
mod job;
mod probe;
mod query;
#[cfg(feature = "l2")]
mod shared;
mod weigh;

pub use handle::CacheHandle;
pub(crate) use hooks::{CacheTask, ListensOnly, hold_for_raw};
pub use query::CacheableQuery;
#[cfg(feature = "l2")]
pub use shared::SharedCached;

use crate::Db;
use db_cache::{Answer, Fetch, Key, Policy};
use db_core::Result;
use std::{fmt, sync::Arc, time::Duration};

/// A database whose answers may come from memory. Made by [`Db::cached`]; the queries are sqlx's own.
///
/// Values are shared: every caller of the same query with the same arguments gets the same `Arc`. The tenant of the
/// handle ([`Db::tenant`]) is part of what "the same" means.
#[derive(Clone)]
pub struct Cached {
    db: Db,
    policy: Policy,
    by_class: bool,
}

impl Db {
    /// The same database with answers that are at most `ttl` old; `None` takes `cache.ttl`. What a write through this
    /// database reaches is gone before the writer hears of its end; what other processes write, as soon as the server
    /// tells of it, if the table is watched ([`CacheHandle::watch`]).
    ///
    /// Not kept, but answered all the same: locking and volatile statements, those that depend on the clock or the
    /// session, those that were not understood, and those whose tables can't be found out, unless they have a
    /// [tag](Cached::tag). A transaction has no cache.
    ///
    /// ```
    /// use db_stack::Db;
    /// use std::time::Duration;
    ///
    /// # async fn example(db: Db) -> Result<(), db_stack::Error> {
    /// let name = sqlx::query_scalar::<_, String>("SELECT name FROM items WHERE id = $1").bind(7);
    /// let name = db.cached(Duration::from_secs(30)).fetch_one(name).await?;
    /// assert!(!name.is_empty()); // an `Arc<String>`
    /// # Ok(()) }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn cached(&self, ttl: impl Into<Option<Duration>>) -> Cached {
        let mut policy = Policy::default();
        policy.ttl = ttl.into();
        Cached {
            db: self.with(|_| {}),
            policy,
            by_class: false,
        }
    }

    /// The same database with answers from memory for the statements that have a policy
    /// ([`CacheHandle::set_policy`]), and for those of the classes that have a `cache_ttl`; all others go to the
    /// database.
    #[must_use]
    #[track_caller]
    pub fn cached_by_policy(&self) -> Cached {
        Cached {
            by_class: true,
            ..self.cached(None)
        }
    }
}

impl Cached {
    /// A name under which the answer can be dropped: [`CacheHandle::invalidate_tag`]. It also makes answers cacheable
    /// whose tables can't be found out. An answer that is asked for under other tags is another answer.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        if !self.policy.tags.iter().any(|known| **known == *tag) {
            self.policy.tags.push(tag.into());
            self.policy.tags.sort_unstable();
        }
        self
    }

    /// How long "no such row" is believed; at most the time of an answer. Default `cache.negative_ttl`.
    #[must_use]
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.policy.negative_ttl = Some(ttl);
        self
    }

    /// For how long past its time an answer is still given while it is read again; a query of a macro, or with a mapper,
    /// is read again by the first caller who finds it so, all others in the background. Default
    /// `cache.stale_while_revalidate`, which is off.
    #[must_use]
    pub fn stale_while_revalidate(mut self, span: Duration) -> Self {
        self.policy.stale_while_revalidate = Some(span);
        self
    }

    /// For how long past its time an answer is still given while the database can't be reached. Default
    /// `cache.stale_if_error`, which is off. [`Answer::freshness`] tells.
    #[must_use]
    pub fn stale_if_error(mut self, span: Duration) -> Self {
        self.policy.stale_if_error = Some(span);
        self
    }

    /// All rows.
    ///
    /// # Errors
    /// As the query itself. Dropping the future loses nothing: a read that others wait for is passed on.
    pub async fn fetch_all<Q: CacheableQuery>(&self, query: Q) -> Result<Arc<Vec<Q::Value>>> {
        Ok(self.answer_all(query).await?.into_arc())
    }

    /// The first row.
    ///
    /// # Errors
    /// As the query itself; [`sqlx::Error::RowNotFound`] when there is none.
    pub async fn fetch_one<Q: CacheableQuery>(&self, query: Q) -> Result<Arc<Q::Value>> {
        Ok(self.answer_one(query).await?.into_arc())
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As the query itself.
    pub async fn fetch_optional<Q: CacheableQuery>(&self, query: Q) -> Result<Option<Arc<Q::Value>>> {
        Ok(self.answer_optional(query).await?.map(Answer::into_arc))
    }

    /// The key of what [`fetch_all`](Self::fetch_all) would answer, or [`fetch_one`](Self::fetch_one) and
    /// [`fetch_optional`](Self::fetch_optional), which share theirs: to drop one answer by
    /// [`CacheHandle::invalidate_key`]. `None` for what is never kept. Asks nobody.
    ///
    /// # Errors
    /// When an argument can't be encoded.
    pub async fn key<Q: CacheableQuery>(&self, query: Q, fetch: Fetch) -> Result<Option<Key>> {
        fetch::key(self, query, fetch).await
    }

    /// All rows, with their age.
    ///
    /// # Errors
    /// As [`Cached::fetch_all`].
    pub async fn answer_all<Q: CacheableQuery>(&self, query: Q) -> Result<Answer<Vec<Q::Value>>> {
        fetch::all(self, query, None).await
    }

    /// The first row, with its age.
    ///
    /// # Errors
    /// As [`Cached::fetch_one`].
    pub async fn answer_one<Q: CacheableQuery>(&self, query: Q) -> Result<Answer<Q::Value>> {
        self.answer_optional(query)
            .await?
            .ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// The first row, if there is one, with its age.
    ///
    /// # Errors
    /// As [`Cached::fetch_one`].
    pub async fn answer_optional<Q: CacheableQuery>(&self, query: Q) -> Result<Option<Answer<Q::Value>>> {
        fetch::first(self, query, None).await
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
