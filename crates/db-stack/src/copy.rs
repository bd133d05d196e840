//! COPY on the database, as on a `PgPool`.

use crate::Db;
use db_core::Result;
use futures_core::stream::BoxStream;
use sqlx::{
    Postgres,
    pool::PoolConnection,
    postgres::{PgCopyIn, PgPoolCopyExt},
};

impl Db {
    /// Starts a `COPY … FROM STDIN`. Over a lease of one's own (`db.acquire()`) it runs on a warm connection; here it
    /// opens one of sqlx's within the same budget, since only an sqlx pool can own it.
    ///
    /// # Errors
    /// When no connection is to be had, or the statement is not such a COPY.
    pub async fn copy_in_raw(&self, statement: &str) -> Result<PgCopyIn<PoolConnection<Postgres>>> {
        self.at_home("COPY")?;
        self.inner.breaker.check(&self.wishes())?;
        let lent = self.inner.pool.lend(&self.wishes()).await?;
        let copy = self.inner.pool.inner().copy_in_raw(statement).await?;
        lent.taken_over();
        self.inner.lent_to_writer();
        Ok(copy)
    }

    /// Starts a `COPY … TO STDOUT`; see [`Db::copy_in_raw`].
    ///
    /// # Errors
    /// As [`Db::copy_in_raw`].
    pub async fn copy_out_raw(
        &self,
        statement: &str,
    ) -> Result<BoxStream<'static, sqlx::Result<sqlx_core::bytes::Bytes>>> {
        self.at_home("COPY")?;
        self.inner.breaker.check(&self.wishes())?;
        let lent = self.inner.pool.lend(&self.wishes()).await?;
        let copy = self.inner.pool.inner().copy_out_raw(statement).await?;
        lent.taken_over();
        self.inner.lent_to_writer();
        Ok(copy)
    }
}
