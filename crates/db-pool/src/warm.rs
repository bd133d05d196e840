//! Opening connections before anybody needs them.

use crate::{pool::Pool, shared::Shared, state::Phase};
use db_core::{AcquireFailure, Error, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What a pool that is being warmed wants, until this is dropped.
struct Wish<'a>(&'a Shared);

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.state.lock().warm = 0;
    }
}

impl Pool {
    /// Opens connections, `connect_parallelism` side by side, until `count` are open or as many as may be; says how many
    /// there are. `progress` is called with that number and the goal whenever it has changed. Those over
    /// `min_connections` are closed again when nobody uses them for `idle_timeout`.
    ///
    /// Cancel-safe: what is open stays open.
    ///
    /// # Errors
    /// The reason why the rest could not be opened within `acquire_timeout`.
    pub async fn warm_up(&self, count: u32, mut progress: impl FnMut(u32, u32)) -> Result<u32> {
        self.start();
        let since = Instant::now();
        let limit = self.shared.config.load().acquire_timeout;
        self.shared.state.lock().warm = count;
        let _wish = Wish(&self.shared);
        self.shared.demand.notify_one();
        let mut shown = None;
        loop {
            let (size, goal, closed) = {
                let state = self.shared.state.lock();
                (state.stats.size, count.min(state.room), state.phase == Phase::Closed)
            };
            if shown != Some(size) {
                shown = Some(size);
                progress(size, goal);
            }
            if size >= goal && !closed {
                return Ok(size);
            }
            if closed || since.elapsed() >= limit {
                let failure = if closed {
                    AcquireFailure::Closed
                } else {
                    AcquireFailure::TimedOut
                };
                let error = self
                    .shared
                    .state
                    .lock()
                    .explain(failure, since.elapsed(), Instant::now());
                return Err(Error::from(error));
            }
            sleep(LOOK).await;
        }
    }
}
