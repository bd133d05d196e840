//! Redis, or what speaks like it, as the store.

use super::{Kept, Tier, TierError};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::{
    AsyncCommands, Client, Pipeline, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use std::{fmt, time::Duration};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// As much of a list as anybody reads.
const LIST: isize = 99;

/// A Redis or Valkey server, over one connection that all calls share and that is made anew when it breaks. Nothing is
/// connected before the first call.
///
/// It needs no persistence and should evict by itself (`maxmemory-policy allkeys-lru`): every answer has its time.
pub struct RedisTier {
    client: Client,
    connection: Mutex<Option<ConnectionManager>>,
}

impl RedisTier {
    /// The server of this URL: `redis://[user:password@]host:port/database`, or `redis+unix:///path`. Connects to nothing.
    ///
    /// # Errors
    /// [`TierError`] when it is no such URL; it never shows it.
    pub fn new(url: &str) -> Result<Self, TierError> {
        Ok(Self {
            client: Client::open(url).map_err(|_| TierError::new("not a URL of a Redis server"))?,
            connection: Mutex::new(None),
        })
    }

    /// Connects when it is first used.
    fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let mut connection = self.connection.lock();
        if let Some(manager) = &*connection {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each call has a bound of its own, outside.
            .set_response_timeout(None)
            .set_number_of_retries(1)
            .set_max_delay(PAUSE);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        Ok(connection.insert(manager).clone())
    }
}

impl Tier for RedisTier {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Kept>, TierError>> {
        Box::pin(async move {
            let mut connection = self.connection()?;
            let asked = Pipeline::with_capacity(2)
                .get(key)
                .pttl(key)
                .query_async(&mut connection)
                .await;
            let (bytes, left): (Option<Vec<u8>>, i64) = asked?;
            let kept = bytes.zip(u64::try_from(left).ok());
            Ok(kept.map(|(bytes, left)| Kept {
                bytes,
                left: Duration::from_millis(left),
            }))
        })
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8], keep: Duration) -> BoxFuture<'a, Result<(), TierError>> {
        Box::pin(async move {
            let mut connection = self.connection()?;
            Ok(connection.pset_ex(key, bytes, millis(keep)).await?)
        })
    }

    fn add<'a>(&'a self, key: &'a str, bytes: &'a [u8], keep: Duration) -> BoxFuture<'a, Result<(), TierError>> {
        Box::pin(async move {
            let mut connection = self.connection()?;
            let keep = i64::try_from(millis(keep)).unwrap_or(i64::MAX);
            let mut add = Pipeline::with_capacity(2);
            add.atomic().rpush(key, bytes).ignore().pexpire(key, keep).ignore();
            Ok(add.query_async(&mut connection).await?)
        })
    }

    fn list<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, TierError>> {
        Box::pin(async move {
            let mut connection = self.connection()?;
            let mut list = redis::cmd("LRANGE");
            list.arg(key).arg(0).arg(LIST);
            Ok(list.query_async(&mut connection).await?)
        })
    }

    fn suspect(&self) {
        // The next call connects anew; those that wait on this one keep it until they end.
        *self.connection.lock() = None;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl From<RedisError> for TierError {
    fn from(error: RedisError) -> Self {
        Self::new(error)
    }
}

impl fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisTier")
    }
}
