//! Which queries can be answered from memory, and how their rows become values.

use crate::cached::probe::{ProbeOf, Stored};
use db_core::{Result, Statement, Want};
use futures_core::future::BoxFuture;
use sqlx::{
    FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::{Map, Query, QueryAs, QueryScalar},
};
use std::any::TypeId;

/// How a row becomes a value, without any state.
pub(crate) type Decode<V> = fn(PgRow) -> sqlx::Result<V>;

/// A query of sqlx's: of `query`, `query_as`, `query_scalar` and their macros. The value of a plain `query` is the
/// [`PgRow`] itself.
pub trait CacheableQuery: Send + Sized + sealed::Sealed {
    /// What a row becomes.
    type Value: Send + Sync + Unpin + 'static;

    /// The types that decide what a row becomes; `None` when a mapper holds state of its own, so that two of the same
    /// type may differ.
    #[doc(hidden)]
    fn shape() -> Option<[TypeId; 2]>;

    /// The statement and a stateless decoder, or the query itself when only sqlx can map its rows.
    #[doc(hidden)]
    fn split(self, want: Want) -> Result<(Statement, Decode<Self::Value>), Split<Self>>;

    /// Runs the query, with its mapper, against a probe.
    #[doc(hidden)]
    fn run_on<'e, T: Stored>(
        self,
        probe: &'e ProbeOf<'e, T>,
        all: bool,
    ) -> BoxFuture<'e, sqlx::Result<Vec<Self::Value>>>
    where
        Self: 'e;
}

/// Why a query was not taken apart.
#[doc(hidden)]
#[derive(Debug)]
pub enum Split<Q> {
    /// Its mapper can't be taken out.
    Whole(Q),
    /// An argument could not be encoded.
    Failed(db_core::Error),
}

mod sealed {
    use super::{Map, PgArguments, Postgres, Query, QueryAs, QueryScalar};

    #[allow(unnameable_types, reason = "that is what seals")]
    pub trait Sealed {}
    impl Sealed for Query<'_, Postgres, PgArguments> {}
    impl<O> Sealed for QueryAs<'_, Postgres, O, PgArguments> {}
    impl<O> Sealed for QueryScalar<'_, Postgres, O, PgArguments> {}
    impl<F: Send> Sealed for Map<'_, Postgres, F, PgArguments> {}
}

/// Marks keys of queries whose rows are decoded by their type alone.
struct ByType;
/// Marks keys of scalars: a tuple of one is another type.
struct Scalar;

macro_rules! never_whole {
    () => {
        fn run_on<'e, T: Stored>(self, _: &'e ProbeOf<'e, T>, _: bool) -> BoxFuture<'e, sqlx::Result<Vec<Self::Value>>>
        where
            Self: 'e,
        {
            unreachable!("it is always taken apart")
        }
    };
}

impl CacheableQuery for Query<'_, Postgres, PgArguments> {
    type Value = PgRow;

    fn shape() -> Option<[TypeId; 2]> {
        Some([TypeId::of::<PgRow>(), TypeId::of::<ByType>()])
    }

    fn split(self, want: Want) -> Result<(Statement, Decode<PgRow>), Split<Self>> {
        Ok((Statement::new(self, want).map_err(Split::Failed)?, Ok))
    }

    never_whole!();
}

impl<O> CacheableQuery for QueryAs<'_, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow> + Send + Sync + Unpin + 'static,
{
    type Value = O;

    fn shape() -> Option<[TypeId; 2]> {
        Some([TypeId::of::<O>(), TypeId::of::<ByType>()])
    }

    fn split(self, want: Want) -> Result<(Statement, Decode<O>), Split<Self>> {
        Ok((Statement::new(self, want).map_err(Split::Failed)?, |row| {
            O::from_row(&row)
        }))
    }

    never_whole!();
}

impl<O> CacheableQuery for QueryScalar<'_, Postgres, O, PgArguments>
where
    O: Send + Sync + Unpin + 'static,
    (O,): for<'r> FromRow<'r, PgRow>,
{
    type Value = O;

    fn shape() -> Option<[TypeId; 2]> {
        Some([TypeId::of::<O>(), TypeId::of::<Scalar>()])
    }

    fn split(self, want: Want) -> Result<(Statement, Decode<O>), Split<Self>> {
        let decode: Decode<O> = |row| <(O,)>::from_row(&row).map(|(value,)| value);
        Ok((Statement::new(self, want).map_err(Split::Failed)?, decode))
    }

    never_whole!();
}

impl<F, O> CacheableQuery for Map<'_, Postgres, F, PgArguments>
where
    F: FnMut(PgRow) -> sqlx::Result<O> + Send + 'static,
    O: Send + Sync + Unpin + 'static,
{
    type Value = O;

    fn shape() -> Option<[TypeId; 2]> {
        // A closure that captures something is larger than nothing; a function pointer is, too, and may be any function.
        (size_of::<F>() == 0).then(|| [TypeId::of::<O>(), TypeId::of::<F>()])
    }

    fn split(self, _: Want) -> Result<(Statement, Decode<O>), Split<Self>> {
        Err(Split::Whole(self))
    }

    fn run_on<'e, T: Stored>(self, probe: &'e ProbeOf<'e, T>, all: bool) -> BoxFuture<'e, sqlx::Result<Vec<O>>>
    where
        Self: 'e,
    {
        Box::pin(async move {
            if all {
                self.fetch_all(probe).await
            } else {
                Ok(self.fetch_optional(probe).await?.into_iter().collect())
            }
        })
    }
}

/// Whether values of this type are rows as sqlx read them.
pub(crate) fn is_row<V: 'static>() -> bool {
    TypeId::of::<V>() == TypeId::of::<PgRow>()
}
