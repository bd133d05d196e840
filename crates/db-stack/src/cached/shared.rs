//! Answers that processes share: `db.cached(ttl).shared("quote.v1").fetch_one(query)`.

use crate::cached::{CacheableQuery, Cached, fetch, fetch::Sharing};
use db_cache::Answer;
use db_core::Result;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, sync::Arc};

/// A database whose answers may also come from what other processes have read. Made by [`Cached::shared`].
///
/// An answer is shared if every table that it depends on is watched ([`CacheHandle::watch`](crate::CacheHandle::watch))
/// and it has no tag; any other is this process's own, as without this.
#[derive(Clone)]
pub struct SharedCached {
    cached: Cached,
    name: Arc<str>,
}

impl Cached {
    /// The same, with answers shared over the store of
    /// [`DbBuilder::share_cache`](crate::DbBuilder::share_cache). `name` stands for what the rows become, in every process
    /// and every version of it: whoever changes the type or the mapper so that the same rows mean something else takes
    /// another name. Fields that are missing or of another type are noticed, and the answer is read anew.
    ///
    /// ```
    /// use db_stack::Db;
    /// use std::time::Duration;
    ///
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize, sqlx::FromRow)] struct Quote { cents: i64 }
    /// # async fn example(db: Db) -> Result<(), db_stack::Error> {
    /// let quote = sqlx::query_as::<_, Quote>("SELECT cents FROM quotes WHERE item = $1").bind(7);
    /// let quote = db.cached(Duration::from_secs(30)).shared("quote.v1").fetch_one(quote).await?;
    /// assert!(quote.cents > 0);
    /// # Ok(()) }
    /// ```
    pub fn shared(&self, name: &str) -> SharedCached {
        SharedCached {
            cached: self.clone(),
            name: name.into(),
        }
    }
}

impl SharedCached {
    /// All rows.
    ///
    /// # Errors
    /// As [`Cached::fetch_all`].
    pub async fn fetch_all<Q>(&self, query: Q) -> Result<Arc<Vec<Q::Value>>>
    where
        Q: CacheableQuery<Value: Serialize + DeserializeOwned>,
    {
        Ok(self.answer_all(query).await?.into_arc())
    }

    /// The first row.
    ///
    /// # Errors
    /// As [`Cached::fetch_one`].
    pub async fn fetch_one<Q>(&self, query: Q) -> Result<Arc<Q::Value>>
    where
        Q: CacheableQuery<Value: Serialize + DeserializeOwned>,
    {
        let answer = self.answer_optional(query).await?;
        Ok(answer.ok_or(sqlx::Error::RowNotFound)?.into_arc())
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As [`Cached::fetch_one`].
    pub async fn fetch_optional<Q>(&self, query: Q) -> Result<Option<Arc<Q::Value>>>
    where
        Q: CacheableQuery<Value: Serialize + DeserializeOwned>,
    {
        Ok(self.answer_optional(query).await?.map(Answer::into_arc))
    }

    /// All rows, with their age.
    ///
    /// # Errors
    /// As [`Cached::fetch_all`].
    pub async fn answer_all<Q>(&self, query: Q) -> Result<Answer<Vec<Q::Value>>>
    where
        Q: CacheableQuery<Value: Serialize + DeserializeOwned>,
    {
        fetch::all(&self.cached, query, Some(self.sharing())).await
    }

    /// The first row, if there is one, with its age.
    ///
    /// # Errors
    /// As [`Cached::fetch_one`].
    pub async fn answer_optional<Q>(&self, query: Q) -> Result<Option<Answer<Q::Value>>>
    where
        Q: CacheableQuery<Value: Serialize + DeserializeOwned>,
    {
        fetch::first(&self.cached, query, Some(self.sharing())).await
    }

    fn sharing<T: Serialize + DeserializeOwned>(&self) -> Sharing<T> {
        Sharing {
            name: Arc::clone(&self.name),
            // With the names of fields: another shape is an error then, not another meaning.
            encode: |value| rmp_serde::to_vec_named(value).ok(),
            decode: |bytes| rmp_serde::from_slice(bytes).ok(),
        }
    }
}

impl fmt::Debug for SharedCached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCached")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
