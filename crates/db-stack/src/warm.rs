//! Opening connections before anybody needs them.

use crate::Db;
use db_core::Result;
use futures_core::future::BoxFuture;
use std::{fmt, future::IntoFuture};

/// Warms a database up when awaited; made by [`Db::warm_up`].
#[must_use = "nothing happens before it is awaited"]
pub struct WarmUp {
    db: Db,
    count: u32,
    progress: Box<dyn FnMut(u32, u32) + Send>,
}

impl Db {
    /// Opens connections side by side until `count` are open, or as many as may be; says how many there are.
    ///
    /// ```no_run
    /// # async fn example(db: db_stack::Db) -> db_stack::Result<()> {
    /// db.warm_up(10).on_progress(|open, of| println!("{open} of {of} connections")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Awaited, it fails with the reason why the rest could not be opened within `pool.acquire_timeout`; what is open
    /// stays open. Cancel-safe likewise.
    pub fn warm_up(&self, count: u32) -> WarmUp {
        WarmUp {
            db: self.clone(),
            count,
            progress: Box::new(|_, _| {}),
        }
    }
}

impl WarmUp {
    /// Is told how many connections are open, and how many it is to be, whenever that changes.
    pub fn on_progress(mut self, progress: impl FnMut(u32, u32) + Send + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }
}

impl IntoFuture for WarmUp {
    type Output = Result<u32>;
    type IntoFuture = BoxFuture<'static, Result<u32>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.db.inner.pool.warm_up(self.count, self.progress).await })
    }
}

impl fmt::Debug for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmUp")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
