//! Calls that arrive on a schedule, whether or not the earlier ones have ended, as they do in a service.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// How one call went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// When it should have started, from the start of the run.
    pub(crate) due: Duration,
    /// From then to its end, so that a subject that stalls pays for every arrival behind the stall.
    pub(crate) took: Duration,
    pub(crate) good: bool,
}

/// Makes calls at exponential gaps for `span`; `rate` says how many in a second at each time of the run. Every call is
/// waited for.
pub(crate) async fn arrive<C>(
    span: Duration,
    seed: u64,
    rate: impl Fn(Duration) -> f64,
    call: impl Fn(Instant) -> C,
) -> Vec<Outcome>
where
    C: Future<Output = bool> + Send + 'static,
{
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = Instant::now();
    let mut outcomes = Vec::new();
    let mut calls = JoinSet::new();
    let mut due = Duration::ZERO;
    loop {
        // 1 - f64() is never zero, so its logarithm is finite.
        due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate(due).max(0.001));
        if due >= span {
            break;
        }
        let at = begin + due;
        if at > Instant::now() {
            sleep_until(at).await;
        }
        let call = call(at);
        calls.spawn(async move {
            let good = call.await;
            Outcome {
                due,
                took: at.elapsed(),
                good,
            }
        });
        while let Some(ended) = calls.try_join_next() {
            outcomes.extend(ended);
        }
    }
    while let Some(ended) = calls.join_next().await {
        outcomes.extend(ended);
    }
    outcomes
}

/// The quantile of the good calls' durations.
pub(crate) fn quantile(outcomes: &[Outcome], q: f64) -> Duration {
    let mut took: Vec<_> = outcomes.iter().filter(|o| o.good).map(|o| o.took).collect();
    took.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = (took.len() as f64 * q) as usize;
    took.get(at.min(took.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Good calls per second of those due between `from` and `to`.
#[expect(clippy::cast_precision_loss, reason = "a count of calls")]
pub(crate) fn goodput(outcomes: &[Outcome], from: Duration, to: Duration) -> f64 {
    let good = outcomes
        .iter()
        .filter(|o| o.good && o.due >= from && o.due < to)
        .count();
    good as f64 / (to - from).as_secs_f64()
}
