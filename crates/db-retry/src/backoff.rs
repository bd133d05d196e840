//! How long to wait. The only module that knows the crate `backoff`, of which it uses the schedule of intervals alone:
//! its random numbers can't be seeded, its clock can't be paused, and it knows no deadline.

use ::backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};
use db_core::RetryCause;
use fastrand::Rng;
use std::time::Duration;

/// The longest cap, so that no arithmetic overflows: a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// From here on the exponential interval grows no further, whatever the cap.
const LAST_STEP: u32 = 256;
/// How far a decorrelated pause may go beyond the one before (AWS, "Exponential Backoff And Jitter").
const STRETCH: u32 = 3;

/// The pauses of one call.
pub trait Backoff: Send + Sync {
    /// The pause after `attempt` attempts have failed, counted from 1; `None` to stop trying.
    ///
    /// Numbers only grow from call to call, but may skip some: attempts at another [`Pace`], or at once.
    fn next(&mut self, attempt: u32) -> Option<Duration>;
}

/// Starts a [`Backoff`] for each call that fails. Bring another one in [`RetryParts`](crate::RetryParts).
pub trait BackoffPolicy: Send + Sync + 'static {
    /// Pauses at this pace. All randomness comes from `seed`, which differs from call to call.
    fn start(&self, pace: Pace, seed: u64) -> Box<dyn Backoff>;
}

/// What a failed call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pace {
    /// For other transactions to end.
    Contention,
    /// For the server, or the way to it, to come back.
    Connection,
    /// For the server to have room again.
    Overload,
}

impl Pace {
    /// The pace that suits a cause.
    pub fn of(cause: RetryCause) -> Self {
        match cause {
            RetryCause::Overload => Self::Overload,
            cause if cause.is_contention() => Self::Contention,
            _ => Self::Connection,
        }
    }
}

/// The first pause at each pace, and the longest of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// Default 20 ms.
    pub contention: Duration,
    /// Default 50 ms.
    pub connection: Duration,
    /// Default 250 ms.
    pub overload: Duration,
    /// Default 1 s; at most a day.
    pub cap: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            contention: Duration::from_millis(20),
            connection: Duration::from_millis(50),
            overload: Duration::from_millis(250),
            cap: Duration::from_secs(1),
        }
    }
}

impl Delays {
    fn first(&self, pace: Pace) -> Duration {
        match pace {
            Pace::Contention => self.contention,
            Pace::Connection => self.connection,
            Pace::Overload => self.overload,
        }
    }
}

/// A pause that grows by a factor, longer or shorter by a share of itself.
///
/// The interval stops growing at `cap / (1 + jitter)`: no pause is longer than the cap, and those near it are spread as
/// well as all others instead of being cut to the same length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    delays: Delays,
    multiplier: f64,
    jitter: f64,
}

impl Exponential {
    /// A multiplier below 1 counts as 1, a jitter outside 0..=1 as the nearer end.
    pub fn new(delays: Delays, multiplier: f64, jitter: f64) -> Self {
        let delays = Delays {
            cap: delays.cap.min(LONGEST),
            ..delays
        };
        let multiplier = multiplier.clamp(1.0, 1e6);
        // Comparisons that a NaN fails: it counts as the harmless end.
        Self {
            delays,
            multiplier: if multiplier.is_nan() { 1.0 } else { multiplier },
            jitter: if jitter > 0.0 { jitter.min(1.0) } else { 0.0 },
        }
    }
}

impl Default for Exponential {
    /// Doubling, +-30 %.
    fn default() -> Self {
        Self::new(Delays::default(), 2.0, 0.3)
    }
}

impl BackoffPolicy for Exponential {
    fn start(&self, pace: Pace, seed: u64) -> Box<dyn Backoff> {
        let ceiling = self.delays.cap.div_f64(1.0 + self.jitter);
        let schedule = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.delays.first(pace).min(ceiling))
            .with_multiplier(self.multiplier)
            .with_max_interval(ceiling)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Box::new(ExponentialPauses {
            schedule,
            steps: 0,
            interval: Duration::ZERO,
            jitter: self.jitter,
            cap: self.delays.cap,
            rng: Rng::with_seed(seed),
        })
    }
}

struct ExponentialPauses {
    schedule: ExponentialBackoff,
    steps: u32,
    interval: Duration,
    jitter: f64,
    cap: Duration,
    rng: Rng,
}

impl Backoff for ExponentialPauses {
    fn next(&mut self, attempt: u32) -> Option<Duration> {
        while self.steps < attempt.clamp(1, LAST_STEP) {
            self.interval = self.schedule.next_backoff()?;
            self.steps += 1;
        }
        let share = 1.0 + self.jitter * (2.0 * self.rng.f64() - 1.0);
        Some(self.interval.mul_f64(share).min(self.cap))
    }
}

/// A pause between the base and three times the pause before: spreads wider than [`Exponential`], and forgets how many
/// attempts there have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decorrelated {
    delays: Delays,
}

impl Decorrelated {
    /// Pauses from each pace's first one up to the cap.
    pub fn new(delays: Delays) -> Self {
        let delays = Delays {
            cap: delays.cap.min(LONGEST),
            ..delays
        };
        Self { delays }
    }
}

impl BackoffPolicy for Decorrelated {
    fn start(&self, pace: Pace, seed: u64) -> Box<dyn Backoff> {
        let base = self.delays.first(pace).min(self.delays.cap);
        Box::new(DecorrelatedPauses {
            base,
            before: base,
            cap: self.delays.cap,
            rng: Rng::with_seed(seed),
        })
    }
}

struct DecorrelatedPauses {
    base: Duration,
    before: Duration,
    cap: Duration,
    rng: Rng,
}

impl Backoff for DecorrelatedPauses {
    fn next(&mut self, _: u32) -> Option<Duration> {
        let longest = self.before.saturating_mul(STRETCH).min(self.cap);
        let spread = longest.saturating_sub(self.base);
        self.before = self.base + spread.mul_f64(self.rng.f64());
        Some(self.before)
    }
}
