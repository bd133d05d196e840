//! What has happened lately: the last so many calls, and the calls of the last so long.

use super::config::BreakerConfig;
use db_core::BreakerCause;
use tokio::time::Instant;

/// A time window advances in tenths of itself.
const BUCKETS: usize = 10;

/// What is known of some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}

impl Tally {
    fn note(&mut self, failed: bool, slow: bool) {
        self.calls += 1;
        self.failed += u64::from(failed);
        self.slow += u64::from(slow);
    }

    fn take(&mut self, other: Self) {
        self.calls -= other.calls;
        self.failed -= other.failed;
        self.slow -= other.slow;
    }

    /// Why it is too much, if it is.
    fn verdict(self, config: &BreakerConfig) -> Option<Excess> {
        let most = |rate: f64| rate * self.calls as f64;
        if self.calls < u64::from(config.minimum_calls) {
            None
        } else if self.failed as f64 >= most(config.failure_rate) {
            Some(Excess::Failures)
        } else if config.slow_call.is_some() && self.slow as f64 >= most(config.slow_rate) {
            Some(Excess::Slow)
        } else {
            None
        }
    }
}

/// Of what there was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Failures,
    Slow,
}

impl Excess {
    pub(crate) fn cause(self, last: BreakerCause) -> BreakerCause {
        match self {
            Self::Failures => last,
            Self::Slow => BreakerCause::Slow,
        }
    }
}

/// Both windows. Noting a call costs a few additions; memory is one byte for each of the last calls.
pub(crate) struct Window {
    last: Box<[u8]>,
    next: usize,
    of_last: Tally,
    buckets: [Tally; BUCKETS],
    at: usize,
    of_time: Tally,
    /// When the bucket at hand began.
    began: Instant,
}

const FAILED: u8 = 1;
const SLOW: u8 = 2;
const SEEN: u8 = 4;

impl Window {
    pub(crate) fn new(config: &BreakerConfig, now: Instant) -> Self {
        Self {
            last: vec![0; config.window_calls.max(1) as usize].into(),
            next: 0,
            of_last: Tally::default(),
            buckets: [Tally::default(); BUCKETS],
            at: 0,
            of_time: Tally::default(),
            began: now,
        }
    }

    /// Notes a call, and says whether there is now too much of something.
    pub(crate) fn note(&mut self, failed: bool, slow: bool, config: &BreakerConfig, now: Instant) -> Option<Excess> {
        self.turn(config, now);
        let place = &mut self.last[self.next];
        let before = std::mem::replace(place, SEEN | (u8::from(failed) * FAILED) | (u8::from(slow) * SLOW));
        if before & SEEN != 0 {
            self.of_last.take(Tally {
                calls: 1,
                failed: u64::from(before & FAILED != 0),
                slow: u64::from(before & SLOW != 0),
            });
        }
        self.next = (self.next + 1) % self.last.len();
        self.of_last.note(failed, slow);
        self.buckets[self.at].note(failed, slow);
        self.of_time.note(failed, slow);
        if !failed && !slow {
            return None;
        }
        self.of_last.verdict(config).or_else(|| self.of_time.verdict(config))
    }

    /// The calls of the time window.
    pub(crate) fn recent(&mut self, config: &BreakerConfig, now: Instant) -> Tally {
        self.turn(config, now);
        self.of_time
    }

    /// Drops what is older than the time window.
    fn turn(&mut self, config: &BreakerConfig, now: Instant) {
        let step = config.window_time / BUCKETS as u32;
        let mut turned = 0;
        while now.saturating_duration_since(self.began) >= step {
            if turned == BUCKETS {
                self.began = now;
                return;
            }
            turned += 1;
            self.began += step;
            self.at = (self.at + 1) % BUCKETS;
            self.of_time.take(std::mem::take(&mut self.buckets[self.at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config() -> BreakerConfig {
        BreakerConfig {
            minimum_calls: 4,
            window_calls: 8,
            window_time: Duration::from_secs(10),
            slow_call: Some(Duration::from_secs(1)),
            ..BreakerConfig::default()
        }
    }

    #[test]
    fn nothing_is_concluded_from_few_calls() {
        let (config, now) = (config(), Instant::now());
        let mut window = Window::new(&config, now);
        for _ in 0..3 {
            assert_eq!(window.note(true, false, &config, now), None);
        }
        assert_eq!(window.note(true, false, &config, now), Some(Excess::Failures));
    }

    #[test]
    fn the_last_calls_count_even_among_many_earlier_ones() {
        let (config, now) = (config(), Instant::now());
        let mut window = Window::new(&config, now);
        for _ in 0..1000 {
            assert_eq!(window.note(false, false, &config, now), None);
        }
        for _ in 0..3 {
            assert_eq!(window.note(true, false, &config, now), None);
        }
        assert_eq!(window.note(true, false, &config, now), Some(Excess::Failures), "4 of 8");
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (config, start) = (config(), Instant::now());
        let mut window = Window::new(&config, start);
        for second in 0..30 {
            window.note(second % 10 == 0, false, &config, start + Duration::from_secs(second));
        }
        let at = |seconds| start + Duration::from_secs(seconds);
        let recent = window.recent(&config, at(29));
        assert_eq!((recent.calls, recent.failed), (10, 1));
        assert_eq!(window.recent(&config, at(35)).calls, 4);
        assert_eq!(window.recent(&config, at(3600)), Tally::default());
        assert_eq!(window.buckets, [Tally::default(); BUCKETS]);
    }

    #[test]
    fn slow_calls_have_a_rate_of_their_own() {
        let (config, now) = (config(), Instant::now());
        let mut window = Window::new(&config, now);
        for _ in 0..3 {
            assert_eq!(window.note(false, true, &config, now), None);
        }
        window.note(false, false, &config, now);
        assert_eq!(window.note(false, true, &config, now), Some(Excess::Slow), "4 of 5");
        assert_eq!(Excess::Slow.cause(BreakerCause::Timeout), BreakerCause::Slow);
    }
}
