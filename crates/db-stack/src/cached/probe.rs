//! An executor that stands in for the database: it learns a query's key when sqlx runs the query, and lets the query
//! have rows only if there is no answer yet. So the mapper of a macro, which only sqlx can call, is called for reads
//! alone.

use crate::cached::{
    CacheableQuery, Cached,
    fetch::{Alone, filled},
    job::{Job, Shape, own},
    weigh,
};
use async_stream::try_stream;
use db_cache::{Answer, Begin, Fetch, Key, Lead, Outcome};
use db_core::{Error, Result, Statement, Want};
use futures_core::{future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{any::TypeId, fmt, marker::PhantomData};
use tokio::time::Instant;

/// What an answer is kept as.
pub trait Stored: Send + Sync + 'static {}
impl<T: Send + Sync + 'static> Stored for T {}

/// What came of running the query.
enum Met<T> {
    Answer(Option<Answer<T>>),
    /// The rows were handed out: what becomes of them is to be kept, and weighs about so much.
    Rows(Box<Lead>, usize),
    /// The rows were handed out to this caller alone.
    Alone,
    /// Nothing but the key was asked for.
    Key(Option<Key>),
}

/// The executor for answers that are kept as `T`.
pub struct ProbeOf<'a, T> {
    cached: &'a Cached,
    fetch: Fetch,
    shape: Option<[TypeId; 2]>,
    bytes: fn(&[PgRow]) -> usize,
    sharing: Alone<T>,
    met: Mutex<Option<Met<T>>>,
    /// Nothing is run.
    only_key: bool,
}

/// One run of a query whose mapper is its own.
pub(crate) struct Probe<'a, Q: CacheableQuery, S: Shape<Q::Value>> {
    inner: ProbeOf<'a, S::Stored>,
    query: PhantomData<fn(Q)>,
}

impl<'a, Q: CacheableQuery, S: Shape<Q::Value>> Probe<'a, Q, S> {
    pub(crate) fn new(cached: &'a Cached, sharing: Alone<S::Stored>) -> Self {
        Self {
            inner: ProbeOf {
                cached,
                fetch: S::FETCH,
                shape: Q::shape(),
                bytes: weigh::bytes::<Q::Value>,
                sharing,
                met: Mutex::new(None),
                only_key: false,
            },
            query: PhantomData,
        }
    }

    pub(crate) async fn key(mut self, query: Q, all: bool) -> Result<Option<Key>> {
        self.inner.only_key = true;
        query.run_on(&self.inner, all).await?;
        Ok(match self.inner.met.into_inner() {
            Some(Met::Key(key)) => key,
            _ => None,
        })
    }

    pub(crate) async fn run(self, query: Q, all: bool) -> Result<Option<Answer<S::Stored>>> {
        let ran = query.run_on(&self.inner, all).await;
        let (met, sharing) = (self.inner.met.into_inner(), self.inner.sharing);
        match (met, ran) {
            (Some(Met::Answer(answer)), Ok(_)) => Ok(answer),
            (Some(Met::Rows(lead, bytes)), Ok(values)) => {
                Ok(filled::<Q::Value, S>(*lead, values, bytes, sharing.as_ref()))
            }
            // The mapper refused a row.
            (Some(Met::Rows(lead, _)), Err(error)) => lead.fail(error.into()),
            (_, Ok(values)) => Ok(own(S::keep(values))),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

impl<T: Stored> ProbeOf<'_, T> {
    /// The rows that the mapper is to have; none when there is an answer.
    async fn rows(&self, statement: Statement) -> Result<Vec<PgRow>> {
        let name = self.sharing.as_ref().map(|sharing| &*sharing.name);
        let job = Job::new(self.cached, statement, self.fetch, self.shape, name);
        if self.only_key {
            return Ok(self.met(Met::Key(job.key)));
        }
        let begun = match job.key {
            Some(key) => job.begin::<T>(self.cached.db.cache_engine(), key).await?,
            None => return self.alone(&job).await,
        };
        let (fallback, mut lead) = match begun {
            Begin::Hit(answer) => {
                job.gave(answer.read_by());
                return Ok(self.met(Met::Answer(Some(answer))));
            }
            Begin::Nothing(nothing) => {
                job.gave(nothing.read_by());
                return Ok(self.met(Met::Answer(None)));
            }
            Begin::Bypass(_) => return self.alone(&job).await,
            // Only this caller has the mapper: it reads again, and everybody else has the old answer meanwhile.
            Begin::Refresh(answer, lead) => (Some(answer), lead),
            Begin::Read(lead) => (None, lead),
        };
        if let Some(sharing) = &self.sharing
            && let Some(answer) = lead.look(sharing.decode).await
        {
            job.gave(Instant::now());
            return Ok(self.met(Met::Answer(answer)));
        }
        let out = lead.run(job.read(&lead)).await;
        job.gave(Instant::now());
        let rows = match out {
            Outcome::Done(Ok(rows)) => rows,
            Outcome::Done(Err(error)) => {
                let answer = match (lead.fail(error), fallback) {
                    (Ok(answer), _) => answer,
                    // Still within the time in which it may be given while it is read again.
                    (Err(_), Some(answer)) => Some(answer),
                    (Err(error), None) => return Err(error),
                };
                return Ok(self.met(Met::Answer(answer)));
            }
            Outcome::Trouble => match lead.stale() {
                Some(answer) => return Ok(self.met(Met::Answer(answer))),
                None => {
                    let out = job.read(&lead).await;
                    job.gave(Instant::now());
                    match out {
                        Ok(rows) => rows,
                        Err(error) => {
                            let answer = lead.fail(error)?;
                            return Ok(self.met(Met::Answer(answer)));
                        }
                    }
                }
            },
        };
        let bytes = (self.bytes)(&rows);
        self.met(Met::Rows(Box::new(lead), bytes));
        Ok(rows)
    }

    async fn alone(&self, job: &Job) -> Result<Vec<PgRow>> {
        let out = job.alone().await;
        job.gave(Instant::now());
        let rows = out?;
        self.met(Met::Alone);
        Ok(rows)
    }

    fn met(&self, met: Met<T>) -> Vec<PgRow> {
        *self.met.lock() = Some(met);
        Vec::new()
    }
}

impl<'p, T: Stored> Executor<'p> for &'p ProbeOf<'p, T> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query, Want::All);
        Box::pin(try_stream! {
            for row in self.rows(statement?).await? {
                yield Either::Right(row);
            }
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query, Want::First);
        Box::pin(async move { Ok(self.rows(statement?).await?.into_iter().next()) })
    }

    fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'p: 'e,
    {
        Box::pin(std::future::ready(Err(unused())))
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'p: 'e,
    {
        Box::pin(std::future::ready(Err(unused())))
    }
}

/// sqlx's `fetch_*` ask for rows alone.
fn unused() -> sqlx::Error {
    Error::Client(sqlx::Error::InvalidArgument(
        "a cached query is only fetched".to_owned(),
    ))
    .into()
}

impl<T> fmt::Debug for ProbeOf<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeOf")
    }
}
