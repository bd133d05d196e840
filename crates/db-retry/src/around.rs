//! The loop around any future, with a classification of the caller's own.

use crate::{
    attempts::{Attempts, Trouble, drive},
    classify::{Effect, Fate, Phase, Situation, Verdict, decide, fate},
    policy::RetryPolicy,
};
use db_core::{Call, SqlState};
use std::time::Duration;
use tokio::time::Instant;

/// An error that knows whether what failed may be tried again.
pub trait Retryable {
    /// What to do about it. [`Verdict::RerunTransaction`] counts as [`Verdict::Backoff`]: the closure is the whole.
    fn verdict(&self) -> Verdict;

    /// How long another try is useless, if somebody said so. Default: nobody did.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// The SQLSTATE, for events. Default: none.
    fn state(&self) -> Option<SqlState> {
        None
    }
}

/// Nothing is known about the closure, so only what was not sent is tried again. To say more, wrap the error and
/// [`decide`] with a [`Situation`] that says what the closure does.
impl Retryable for db_core::Error {
    fn verdict(&self) -> Verdict {
        let unknown = Situation {
            all_or_nothing: false,
            ..Situation::new(Effect::Write, Phase::Autocommit)
        };
        match decide(self, &unknown) {
            // The connection is the closure's own business: nothing clears its statements, or picks another one.
            Verdict::Once(_) if fate(self) != Fate::NotSent => Verdict::Never,
            verdict => verdict,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        Self::retry_after(self)
    }

    fn state(&self) -> Option<SqlState> {
        self.sqlstate()
    }
}

/// Calls `attempt` until it succeeds or trying again is no use, by the policy's attempts, pauses and budget. With the
/// policy `off` it is called once.
///
/// Cancel-safe as far as the attempt is: dropping the future drops the attempt or the pause that it is in.
///
/// # Errors
/// That of the last attempt.
///
/// ```
/// use db_retry::{Retryable, RetryPolicy, Verdict, around};
///
/// #[derive(Debug)]
/// struct Busy;
/// impl Retryable for Busy {
///     fn verdict(&self) -> Verdict {
///         Verdict::Backoff(db_core::RetryCause::Caller)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let policy = RetryPolicy::default();
/// let mut tries = 0;
/// let answer = around(&policy, || {
///     tries += 1;
///     let busy = tries < 3;
///     async move { if busy { Err(Busy) } else { Ok(42) } }
/// });
/// assert_eq!(answer.await.unwrap(), 42);
/// assert_eq!(tries, 3);
/// # }
/// ```
pub async fn around<T, E, F, A>(policy: &RetryPolicy, attempt: A) -> Result<T, E>
where
    E: Retryable,
    F: Future<Output = Result<T, E>>,
    A: FnMut() -> F,
{
    run(policy, &Call::default(), attempt).await
}

/// The same for a caller who stops caring at `deadline`: no pause lasts until then, and the last error is returned at
/// once instead. An attempt that runs at the deadline is not ended.
///
/// # Errors
/// As for [`around`].
pub async fn around_until<T, E, F, A>(policy: &RetryPolicy, deadline: Instant, attempt: A) -> Result<T, E>
where
    E: Retryable,
    F: Future<Output = Result<T, E>>,
    A: FnMut() -> F,
{
    run(policy, &Call::default().with_deadline(deadline), attempt).await
}

async fn run<T, E, F, A>(policy: &RetryPolicy, call: &Call, mut attempt: A) -> Result<T, E>
where
    E: Retryable,
    F: Future<Output = Result<T, E>>,
    A: FnMut() -> F,
{
    match Attempts::begin(&policy.shared, call) {
        None => attempt().await,
        Some(mut attempts) => drive(&mut attempts, |error: &E, _| trouble(error), attempt).await,
    }
}

fn trouble(error: &impl Retryable) -> Trouble {
    Trouble {
        verdict: error.verdict(),
        retry_after: error.retry_after(),
        state: error.state(),
        not_sent: false,
        doubtful: false,
    }
}
