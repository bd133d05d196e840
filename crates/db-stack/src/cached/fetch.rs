//! From a query to its answer.

use crate::cached::{
    CacheableQuery, Cached,
    job::{All, First, Job, Shape, own},
    probe::Probe,
    query::{Decode, Split},
    weigh,
};
use db_cache::{Answer, Begin, Fetch, Key, Lead, Outcome};
use db_core::{Result, Want};
use sqlx::postgres::PgRow;
use std::sync::Arc;
use tokio::time::Instant;

/// How answers are shared with other processes: the name that stands for what they are, and for how they are written.
#[cfg_attr(not(feature = "l2"), allow(dead_code, reason = "only `Cached::shared` makes one"))]
pub(crate) struct Sharing<T> {
    pub(crate) name: Arc<str>,
    pub(crate) encode: fn(&T) -> Option<Vec<u8>>,
    pub(crate) decode: fn(&[u8]) -> Option<T>,
}

/// What most answers are: nobody else's.
pub(crate) type Alone<T> = Option<Sharing<T>>;

pub(crate) async fn all<Q: CacheableQuery>(
    cached: &Cached,
    query: Q,
    sharing: Alone<Vec<Q::Value>>,
) -> Result<Answer<Vec<Q::Value>>> {
    let answer = match query.split(Want::All) {
        Ok((statement, decode)) => {
            let name = sharing.as_ref().map(|sharing| &*sharing.name);
            let job = Job::new(cached, statement, <All as Shape<Q::Value>>::FETCH, Q::shape(), name);
            serve::<Q::Value, All>(cached, job, decode, sharing).await?
        }
        Err(Split::Whole(query)) => Probe::<Q, All>::new(cached, sharing).run(query, true).await?,
        Err(Split::Failed(error)) => return Err(error),
    };
    Ok(answer.unwrap_or_else(|| own(Some(Vec::new())).expect("it is given something")))
}

pub(crate) async fn first<Q: CacheableQuery>(
    cached: &Cached,
    query: Q,
    sharing: Alone<Q::Value>,
) -> Result<Option<Answer<Q::Value>>> {
    match query.split(Want::First) {
        Ok((statement, decode)) => {
            let name = sharing.as_ref().map(|sharing| &*sharing.name);
            let job = Job::new(cached, statement, <First as Shape<Q::Value>>::FETCH, Q::shape(), name);
            serve::<Q::Value, First>(cached, job, decode, sharing).await
        }
        Err(Split::Whole(query)) => Probe::<Q, First>::new(cached, sharing).run(query, false).await,
        Err(Split::Failed(error)) => Err(error),
    }
}

pub(crate) async fn key<Q: CacheableQuery>(cached: &Cached, query: Q, fetch: Fetch) -> Result<Option<Key>> {
    match query.split(Want::All) {
        Ok((statement, _)) => Ok(Job::new(cached, statement, fetch, Q::shape(), None).key),
        Err(Split::Whole(query)) if fetch == Fetch::All => Probe::<Q, All>::new(cached, None).key(query, true).await,
        Err(Split::Whole(query)) => Probe::<Q, First>::new(cached, None).key(query, false).await,
        Err(Split::Failed(error)) => Err(error),
    }
}

async fn serve<V, S>(
    cached: &Cached,
    job: Job,
    decode: Decode<V>,
    sharing: Alone<S::Stored>,
) -> Result<Option<Answer<S::Stored>>>
where
    V: Send + Sync + 'static,
    S: Shape<V>,
{
    let cache = cached.db.cache_engine();
    let Some(key) = job.key else {
        return Ok(own(S::keep(decoded(job.alone().await?, decode)?)));
    };
    match job.begin::<S::Stored>(cache, key).await? {
        Begin::Hit(answer) => {
            job.gave(answer.read_by());
            Ok(Some(answer))
        }
        Begin::Nothing(nothing) => {
            job.gave(nothing.read_by());
            Ok(None)
        }
        Begin::Refresh(answer, lead) => {
            job.gave(answer.read_by());
            // Ends with its class's time limit at the latest.
            tokio::spawn(async move { drop(Box::pin(read::<V, S>(&job, lead, decode, sharing)).await) });
            Ok(Some(answer))
        }
        Begin::Read(lead) => {
            let out = Box::pin(read::<V, S>(&job, lead, decode, sharing)).await;
            job.gave(Instant::now());
            out
        }
        Begin::Bypass(_) => {
            let out = job.alone().await;
            job.gave(Instant::now());
            Ok(own(S::keep(decoded(out?, decode)?)))
        }
    }
}

/// Reads for all who wait.
async fn read<V, S>(
    job: &Job,
    mut lead: Lead,
    decode: Decode<V>,
    sharing: Alone<S::Stored>,
) -> Result<Option<Answer<S::Stored>>>
where
    V: Send + Sync + 'static,
    S: Shape<V>,
{
    if let Some(sharing) = &sharing
        && let Some(answer) = lead.look(sharing.decode).await
    {
        return Ok(answer);
    }
    let rows = match lead.run(job.read(&lead)).await {
        Outcome::Done(Ok(rows)) => rows,
        Outcome::Done(Err(error)) => return lead.fail(error),
        Outcome::Trouble => match lead.stale() {
            Some(answer) => return Ok(answer),
            // Outdated meanwhile: there is nothing to fall back on any more.
            None => match job.read(&lead).await {
                Ok(rows) => rows,
                Err(error) => return lead.fail(error),
            },
        },
    };
    let bytes = weigh::bytes::<V>(&rows);
    match decoded(rows, decode) {
        Ok(values) => Ok(filled::<V, S>(lead, values, bytes, sharing.as_ref())),
        Err(error) => lead.fail(error),
    }
}

/// Keeps what was read.
pub(crate) fn filled<V, S: Shape<V>>(
    mut lead: Lead,
    values: Vec<V>,
    bytes: usize,
    sharing: Option<&Sharing<S::Stored>>,
) -> Option<Answer<S::Stored>> {
    match S::keep(values) {
        Some(stored) => {
            if let Some(encoded) = sharing
                .filter(|_| lead.is_shared())
                .and_then(|sharing| (sharing.encode)(&stored))
            {
                lead.encoded(encoded);
            }
            let negative = S::is_negative(&stored);
            Some(lead.fill(Arc::new(stored), bytes, negative))
        }
        None => {
            lead.nothing();
            None
        }
    }
}

fn decoded<V>(rows: Vec<PgRow>, decode: Decode<V>) -> Result<Vec<V>> {
    Ok(rows.into_iter().map(decode).collect::<sqlx::Result<_>>()?)
}
