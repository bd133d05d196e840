//! The service: statements, and whatever else is an operation.

use crate::{
    attempts::{Attempts, Trouble, drive},
    classify::{Effect, Phase, Situation},
    policy::RetryPolicy,
};
use db_core::{Call, Error, Operation, Result, Service};

/// A service that tries failed calls again when that can do no harm. Made by [`RetryLayer`](crate::RetryLayer).
///
/// The error of the last attempt is returned; but when the last one was not even sent and an earlier one of an idempotent
/// write may have run, the earlier one's. Cancel-safe: a dropped call drops the attempt or the pause that it is in.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    pub(crate) policy: RetryPolicy,
    pub(crate) inner: S,
}

impl<S: Service<Op>, Op: Operation + ?Sized> Service<Op> for Retry<S> {
    async fn call(&self, call: &Call, op: &Op) -> Result<Op::Output> {
        match Attempts::begin(&self.policy.shared, call) {
            None => self.inner.call(call, op).await,
            Some(mut attempts) => {
                let judge = |error: &Error, failed| self.judge(call, op, error, failed);
                drive(&mut attempts, judge, || self.inner.call(call, op)).await
            }
        }
    }
}

impl<S> Retry<S> {
    fn judge<Op: Operation + ?Sized>(&self, call: &Call, op: &Op, error: &Error, failed: u32) -> Trouble {
        let effect = Effect::of(call, op.facts().map(|facts| &**facts));
        let settings = self.policy.shared.settings();
        Trouble::of(
            error,
            Situation {
                replayable: op.replayable(),
                all_or_nothing: op.all_or_nothing(),
                attempt: failed,
                pooler: settings.config.pooler,
                lock_timeouts: settings.config.lock_timeouts,
                ..Situation::new(effect, Phase::Autocommit)
            },
        )
    }
}
