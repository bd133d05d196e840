//! What one cell measured, and the middle of several.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Latencies from here up are all "too long".
const LONGEST: u64 = 60_000_000_000;

/// The last calls end after the last arrival, and gaps at random have a spread of their own.
const KEPT_UP: f64 = 0.95;

/// A histogram of nanoseconds that never grows while it is written to.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, LONGEST, 3)?)
}

/// The nanoseconds of a duration, as a histogram wants them.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST)
}

/// The processor time that this process has used, in nanoseconds.
pub(crate) fn cpu_nanos() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(used.tv_sec * 1_000_000_000 + used.tv_nsec).unwrap_or_default()
}

/// One subject in one cell of one round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Calls finished in a second.
    pub(crate) throughput: f64,
    /// Median latency in nanoseconds.
    pub(crate) p50: u64,
    /// 99th percentile in nanoseconds.
    pub(crate) p99: u64,
    /// 99.9th percentile in nanoseconds.
    pub(crate) p999: u64,
    /// Calls that were measured.
    pub(crate) calls: u64,
    /// Arrivals in a second, in the open loop.
    pub(crate) offered: Option<f64>,
    /// Nanoseconds of processor time per call in this process, user and system, the bench's own included.
    #[serde(default)]
    pub(crate) cpu: Option<u64>,
}

impl Sample {
    /// The sample of `latencies` that were seen within `span`.
    pub(crate) fn of(latencies: &Histogram<u64>, span: Duration) -> Self {
        Self {
            throughput: latencies.len() as f64 / span.as_secs_f64(),
            p50: latencies.value_at_quantile(0.5),
            p99: latencies.value_at_quantile(0.99),
            p999: latencies.value_at_quantile(0.999),
            calls: latencies.len(),
            offered: None,
            cpu: None,
        }
    }

    /// Whether what arrived was also done; in the closed loop it always is.
    pub(crate) fn kept_up(&self) -> bool {
        self.offered.is_none_or(|offered| self.throughput >= offered * KEPT_UP)
    }
}

/// The median of several rounds with the extremes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half of the rounds were below.
    pub(crate) median: f64,
    /// The lowest round.
    pub(crate) min: f64,
    /// The highest round.
    pub(crate) max: f64,
    /// How many rounds there were.
    pub(crate) count: usize,
}

impl Spread {
    /// `None` without a value. NaN is left out: it says nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values.len() / 2;
        let lower = (values.len() - 1) / 2;
        Some(Self {
            median: f64::midpoint(values[lower], values[upper]),
            min,
            max,
            count: values.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_and_odd_counts() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([f64::NAN]), None);
    }
}
