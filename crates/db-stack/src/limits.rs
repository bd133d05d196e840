//! The limits of the statements of one transaction.

use crate::db::Inner;
use db_core::{Call, Result, StatementFacts};
use db_metrics::ObserveLayer;
use db_timeout::TimeoutLayer;
use std::{fmt, future::Future, sync::Arc};

/// What the caller's handle said, for each statement of a transaction: its class and timeout count for each, its
/// deadline for all together.
pub(crate) struct Limits {
    observe: ObserveLayer,
    timeouts: TimeoutLayer,
    call: Call,
}

impl Limits {
    pub(crate) fn new(inner: &Arc<Inner>, call: Call) -> Self {
        Self {
            observe: inner.telemetry.observe.clone(),
            timeouts: inner.timeouts.clone(),
            call,
        }
    }

    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// Runs one step under its limit. Past it the step is dropped.
    pub(crate) async fn around<T>(
        &self,
        statement: Option<&Arc<StatementFacts>>,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut call = self.call.clone();
        call.statement = statement.map(|facts| facts.fingerprint());
        let limited = self.timeouts.around(&call, step);
        self.observe.around(&call, statement, limited).await
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("class", &self.call.class)
            .finish_non_exhaustive()
    }
}
