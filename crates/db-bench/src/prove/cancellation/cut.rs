//! Ways to drop a future before it is done.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::timeout;

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    Never,
    /// Right after this many polls.
    Polls(u32),
    /// After this time, wherever it is then.
    After(Duration),
}

impl Cut {
    pub(crate) fn random(dice: &mut fastrand::Rng) -> Self {
        match dice.u32(0..100) {
            0..15 => Self::Never,
            // Most await points come early; some calls have dozens.
            15..60 => Self::Polls(1 + dice.u32(0..6)),
            60..70 => Self::Polls(1 + dice.u32(0..40)),
            _ => Self::After(Duration::from_micros(dice.u64(0..5_000))),
        }
    }

    /// The future's output; `None` when it was dropped unfinished.
    pub(crate) async fn apply<F: Future>(self, future: F) -> Option<F::Output> {
        match self {
            Self::Never => Some(future.await),
            Self::After(time) => timeout(time, future).await.ok(),
            Self::Polls(polls) => {
                let mut future = pin!(future);
                let mut left = polls;
                poll_fn(|cx| {
                    if let Poll::Ready(output) = future.as_mut().poll(cx) {
                        return Poll::Ready(Some(output));
                    }
                    left -= 1;
                    if left == 0 { Poll::Ready(None) } else { Poll::Pending }
                })
                .await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_is_dropped_after_its_polls() {
        let yields = |times: u32| async move {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
            times
        };
        assert_eq!(Cut::Polls(3).apply(yields(2)).await, Some(2));
        assert_eq!(Cut::Polls(3).apply(yields(3)).await, None);
        assert_eq!(Cut::Never.apply(yields(9)).await, Some(9));
        let never = std::future::pending::<()>();
        assert_eq!(Cut::After(Duration::from_millis(1)).apply(never).await, None);
    }
}
