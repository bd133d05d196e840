//! The background work: it reads the schema when it is unknown, and compares it from time to time.

use crate::{
    cache::Cache,
    catalogue::{Catalogue, STAMP},
    listener,
};
use db_core::{Call, Lease, LeaseState, Result, Source};
use futures_util::future;
use sqlx::{PgConnection, postgres::PgListener};
use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::timeout;

/// Between two attempts to read the schema that fail.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one look at the schema may take.
const LOOK: Duration = Duration::from_secs(10);

impl Cache {
    /// Keeps the cache informed for as long as the future lives: of the schema, through `source`, and of other writers,
    /// over a connection that `connect` makes anew each time. Does nothing until somebody asks for a cached answer.
    /// Never ends; drop it to stop.
    pub async fn serve<S, C, F>(self, source: S, connect: C)
    where
        S: Source,
        C: Fn() -> F + Send,
        F: Future<Output = sqlx::Result<PgListener>> + Send,
    {
        while !self.shared.signals.is_wanted() {
            self.shared.signals.work.notified().await;
        }
        let listening = async {
            if self.shared.config.load().listen {
                listener::listen(&self, connect).await;
            }
        };
        let sharing = async {
            if let Some(tier) = self.shared.tier.get() {
                tier.work().await;
            }
        };
        future::join3(self.keep_schema(source), listening, sharing).await;
    }

    async fn keep_schema<S: Source>(&self, source: S) {
        let signals = &self.shared.signals;
        loop {
            let known = self.shared.catalogue.load_full();
            let Some(known) = known else {
                let epoch = signals.schema();
                match look(&source, async |conn| Catalogue::load(conn).await).await {
                    // One that was read while the schema changed is read again.
                    Some(Ok(catalogue)) if signals.schema() == epoch => {
                        self.shared.shadowed.store(catalogue.has_shadows(), Ordering::SeqCst);
                        self.shared.catalogue.store(Some(Arc::new(catalogue)));
                        // A change just now would have found nothing to take back.
                        if signals.schema() != epoch {
                            self.shared.catalogue.store(None);
                        }
                        signals.tell();
                    }
                    Some(Ok(_)) => {}
                    failed => {
                        if let Some(Err(error)) = failed {
                            tracing::debug!(%error, "the schema can't be read: nothing is cached");
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            };
            let pause = self.shared.config.load().schema_check;
            if timeout(pause, signals.work.notified()).await.is_ok() {
                continue;
            }
            let stamp = look(&source, async |conn| {
                Ok(sqlx::query_scalar::<_, String>(STAMP).fetch_one(conn).await?)
            });
            // A server that does not answer tells nothing about its schema.
            if let Some(Ok(stamp)) = stamp.await
                && stamp != known.stamp()
            {
                self.shared.schema_changed();
            }
        }
    }
}

async fn look<S: Source, T>(source: &S, read: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Option<Result<T>> {
    let looked = timeout(LOOK, async {
        let mut lease = source.acquire(&Call::default()).await?;
        let out = read(lease.start()).await;
        lease.settle(match &out {
            Ok(_) => LeaseState::Clean,
            Err(error) => LeaseState::after(error),
        });
        out
    });
    looked.await.ok()
}
