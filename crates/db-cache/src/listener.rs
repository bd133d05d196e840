//! Hears of other writers. What can't have been heard is dropped.

use crate::{
    cache::Cache,
    catalogue::Effect,
    tier::{self, HELLO},
    versions::Place,
};
use db_core::{CacheDrop, Event};
use sqlx::postgres::{PgListener, PgNotification};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Where `db_cache.watch(table)` makes the server tell of writes.
pub const CHANNEL: &str = "db_cache";
/// Pauses between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(5);
/// After so long it is taken for trouble.
const HANGS: Duration = Duration::from_secs(1);

/// How listening came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection was closed, or sqlx made another one of it.
    Closed,
    /// Nobody answered.
    Silent,
    /// The server is another one.
    Moved,
}

/// Listens for ever, over one connection at a time.
pub(crate) async fn listen<C, F>(cache: &Cache, connect: C)
where
    C: Fn() -> F,
    F: Future<Output = sqlx::Result<PgListener>>,
{
    let shared = &*cache.shared;
    let mut pause = RECONNECT.0;
    let mut server = shared.signals.server();
    loop {
        server.mark_unchanged();
        let opened = tokio::select! {
            opened = attempt(cache, open(cache, &connect)) => opened,
            // Its answer would be of the server of before.
            _ = server.changed() => continue,
        };
        let silent = match opened {
            Ok(Some((mut listener, pid))) => {
                pause = RECONNECT.0;
                if let Some(tier) = shared.tier.get() {
                    // What was counted until now lacks what was missed, also where nobody saw the end of that.
                    tier.world.lost();
                }
                // From here on every commit is heard of; those before are what was missed.
                shared.drop_all(CacheDrop::Gap);
                shared.signals.heard(Instant::now(), lease(cache));
                shared.signals.live();
                shared.signals.well();
                shared.observers.tell(|| Event::CacheListening { live: true });
                let end = tokio::select! {
                    biased;
                    _ = server.changed() => End::Moved,
                    end = hear(cache, &mut listener, pid) => end,
                };
                if let Some(tier) = shared.tier.get() {
                    tier.world.lost();
                }
                if end == End::Moved {
                    // Also when the move fell between the connecting and the word that it is live.
                    shared.signals.lost();
                    shared.observers.tell(|| Event::CacheListening { live: false });
                    continue;
                }
                end == End::Silent
            }
            Ok(None) => true,
            Err(error) => {
                tracing::debug!(%error, "the cache can't listen");
                matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)
            }
        };
        if shared.signals.lost() {
            tracing::warn!("the cache no longer hears of other writers: nothing is given out of memory until it does");
            shared.observers.tell(|| Event::CacheListening { live: false });
        }
        if silent {
            shared.signals.in_trouble();
        }
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())) => {}
            _ = server.changed() => {}
        }
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// One attempt to connect; `None` when there was no answer in time. One that hangs is trouble long before that.
async fn attempt<T>(cache: &Cache, open: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<Option<T>> {
    let mut open = std::pin::pin!(timeout(CONNECT, open));
    loop {
        match timeout(HANGS, &mut open).await {
            Ok(Ok(opened)) => return opened.map(Some),
            Ok(Err(_)) => return Ok(None),
            Err(_) => cache.shared.signals.in_trouble(),
        }
    }
}

async fn open<C, F>(cache: &Cache, connect: &C) -> sqlx::Result<(PgListener, i32)>
where
    C: Fn() -> F,
    F: Future<Output = sqlx::Result<PgListener>>,
{
    let mut listener = connect().await?;
    // A gap must never be silent.
    listener.eager_reconnect(false);
    if cache.shared.tier.get().is_some() {
        listener.listen_all([CHANNEL, HELLO]).await?;
    } else {
        listener.listen(CHANNEL).await?;
    }
    let pid = backend(&mut listener).await?;
    Ok((listener, pid))
}

/// Says hello to those who share a store, over the channel on which all hear it in the same order. Heard with the rest.
async fn hello(listener: &mut PgListener, tier: &tier::Shared) -> sqlx::Result<()> {
    let nonce = tier::nonce();
    tier.world.call(nonce);
    let hello = "SELECT pg_notify($1, $2 || ' ' || (extract(epoch FROM clock_timestamp()) * 1000000)::int8)";
    let hello = sqlx::query(hello).bind(HELLO).bind(format!("{nonce:032x}"));
    hello.execute(listener).await.map(drop)
}

/// The server's process for this connection: another one means that sqlx has connected anew.
async fn backend(listener: &mut PgListener) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(listener).await
}

/// How long a proof of life counts.
fn lease(cache: &Cache) -> Duration {
    cache.shared.config.load().heartbeat * 2
}

/// Until the connection is lost, or no longer answers.
async fn hear(cache: &Cache, listener: &mut PgListener, pid: i32) -> End {
    let signals = &cache.shared.signals;
    let tier = cache.shared.tier.get();
    if let Some(tier) = tier
        && let Err(end) = said_hello(cache, listener, tier).await
    {
        return end;
    }
    let mut beaten = Instant::now();
    loop {
        let heartbeat = cache.shared.config.load().heartbeat;
        let quiet_until = beaten + heartbeat;
        let again = async {
            match tier {
                Some(tier) => tier.again.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = tokio::time::timeout_at(quiet_until, listener.try_recv()) => match received {
                Ok(Ok(Some(notification))) => {
                    cache.heard(&notification);
                    if Instant::now() < quiet_until {
                        continue;
                    }
                }
                Ok(Ok(None) | Err(_)) => return End::Closed,
                Err(_) => {}
            },
            () = signals.beat.notified() => {}
            () = again => {
                if let Some(tier) = tier
                    && let Err(end) = said_hello(cache, listener, tier).await
                {
                    return end;
                }
            }
        }
        let asked = Instant::now();
        match timeout(heartbeat, backend(listener)).await {
            Ok(Ok(now)) if now == pid => {}
            Ok(_) => return End::Closed,
            Err(_) => return End::Silent,
        }
        while let Some(notification) = listener.next_buffered() {
            cache.heard(&notification);
        }
        beaten = asked;
        signals.heard(asked, lease(cache));
        signals.well();
    }
}

async fn said_hello(cache: &Cache, listener: &mut PgListener, tier: &tier::Shared) -> Result<(), End> {
    let heartbeat = cache.shared.config.load().heartbeat;
    match timeout(heartbeat, hello(listener, tier)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Closed),
        Err(_) => Err(End::Silent),
    }
}

impl Cache {
    fn heard(&self, notification: &PgNotification) {
        match (notification.channel(), self.shared.tier.get()) {
            (HELLO, Some(tier)) => tier.hello(notification.payload()),
            _ => self.written(notification.payload()),
        }
    }

    /// Anybody may notify: what is not understood counts as everything.
    pub(crate) fn written(&self, payload: &str) {
        let shared = &*self.shared;
        if let Some(tier) = shared.tier.get() {
            // Before any counter moves: whoever sees that it has must not look under the name of before. By the table's
            // number alone, which all processes read alike whatever they know of the schema.
            tier.world.told(payload.parse().map_or(Place::ALL, Place::table));
        }
        match payload {
            "*" => shared.schema_changed(),
            payload => {
                let catalogue = shared.catalogue.load();
                let effect = payload
                    .parse()
                    .ok()
                    .and_then(|oid: u32| Some(catalogue.as_ref()?.written(oid)))
                    .unwrap_or(Effect::Everything);
                shared.apply(&effect, CacheDrop::Notified);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CacheConfig;
    use db_core::Observers;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_payload_is_heard(payload in prop_oneof![any::<String>(), "[0-9]{0,30}", "-?[0-9]{1,10}"]) {
            let cache = Cache::new(CacheConfig::default(), Observers::default()).unwrap();
            cache.written(&payload);
            let heard = cache.stats().invalidations.iter().map(|(_, count)| count).sum::<u64>();
            // Without a schema nothing is known of any table.
            prop_assert_eq!(heard, 1);
        }
    }
}
