//! A limit around any future, for what is not one operation: a step of an open transaction.

use crate::{layer::TimeoutLayer, watch::Watch};
use db_core::{Call, Result};
use std::future::Future;
use tokio::time::timeout_at;

impl TimeoutLayer {
    /// Runs one step under the nearest limit of `call`, and counts it like a call.
    ///
    /// # Errors
    /// [`Error::Timeout`](db_core::Error::Timeout) past the limit: the step has then been dropped. Cancel-safe as far as
    /// the step is.
    pub async fn around<T>(&self, call: &Call, step: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(mut watch) = Watch::begin(&self.ledger, call) else {
            return step.await;
        };
        watch.admit()?;
        let out = match watch.deadline() {
            Some(deadline) => match timeout_at(deadline, step).await {
                Ok(out) => out,
                Err(_) => return Err(watch.expire()),
            },
            None => step.await,
        };
        watch.settle(&out, false);
        out
    }
}
