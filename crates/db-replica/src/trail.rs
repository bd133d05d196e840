//! Where the primary was when: turns instants into positions, and positions of replicas into lag.

use db_core::Lsn;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Samples closer than this replace the newest one: reads that ask for positions must not push the past out.
const APART: Duration = Duration::from_millis(100);
/// Enough for 25 s at the closest, and for minutes at the usual pace.
const KEPT: usize = 256;

/// A page of WAL, and the header that every page but a segment's first begins with.
const PAGE: u64 = 8192;
const HEADER: u64 = 24;

/// The end of the last record before this insert position. At the start of a page the two differ: the next record will
/// begin behind the page's header, while a replica that has replayed everything stands before it.
pub(crate) fn end_of_records(insert: Lsn) -> Lsn {
    match insert.0 % PAGE {
        HEADER => Lsn(insert.0 - HEADER),
        _ => insert,
    }
}

/// A position of the primary, asked for at an instant: it covers everything that was committed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at: Instant,
    lsn: Lsn,
}

/// The primary's positions on one timeline, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    samples: VecDeque<Sample>,
    latest: Option<Sample>,
}

impl Trail {
    /// The primary answered `lsn` to a question that was sent at `at`.
    pub(crate) fn push(&mut self, at: Instant, lsn: Lsn) {
        if self.latest.is_some_and(|latest| at < latest.at) {
            return;
        }
        let sample = Sample { at, lsn };
        self.latest = Some(sample);
        if self.samples.back().is_none_or(|last| at >= last.at + APART) {
            self.samples.push_back(sample);
            if self.samples.len() > KEPT {
                self.samples.pop_front();
            }
        }
    }

    /// A position that covers everything committed before `since`: the lowest that is known.
    pub(crate) fn covering(&self, since: Instant) -> Option<Lsn> {
        let first = self.samples.partition_point(|sample| sample.at < since);
        let kept = self.samples.get(first).copied();
        kept.or(self.latest)
            .filter(|sample| sample.at >= since)
            .map(|sample| sample.lsn)
    }

    /// When the primary was first seen beyond this position, not just at it: a write that ends there may have become
    /// visible only after a question that found the log's end there.
    pub(crate) fn beyond(&self, lsn: Lsn) -> Option<Instant> {
        let first = self.samples.partition_point(|sample| sample.lsn <= lsn);
        let kept = self.samples.get(first).copied();
        kept.or(self.latest)
            .filter(|sample| sample.lsn > lsn)
            .map(|sample| sample.at)
    }

    /// The newest position.
    pub(crate) fn latest(&self) -> Option<Lsn> {
        self.latest.map(|latest| latest.lsn)
    }

    /// How long ago the primary was first seen beyond `replayed`; zero for a replica that has all that is known, however
    /// long the primary has been idle. `None` when nothing is known of the primary.
    pub(crate) fn lag(&self, replayed: Lsn, now: Instant) -> Option<Duration> {
        let latest = self.latest?;
        let missing = self.samples.partition_point(|sample| sample.lsn <= replayed);
        let first = self.samples.get(missing).copied();
        let first = first.or(Some(latest).filter(|latest| latest.lsn > replayed));
        Some(first.map_or(Duration::ZERO, |sample| now.saturating_duration_since(sample.at)))
    }

    /// The samples are of another timeline.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(start: Instant, samples: &[(u64, u64)]) -> Trail {
        let mut trail = Trail::default();
        for &(ms, lsn) in samples {
            trail.push(start + Duration::from_millis(ms), Lsn(lsn));
        }
        trail
    }

    #[test]
    fn the_lowest_position_that_is_late_enough() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let trail = trail(start, &[(0, 10), (1000, 20), (2000, 30), (2010, 31)]);
        assert_eq!(trail.covering(at(0)), Some(Lsn(10)));
        assert_eq!(trail.covering(at(1)), Some(Lsn(20)));
        assert_eq!(trail.covering(at(2001)), Some(Lsn(31)), "the latest counts, too");
        assert_eq!(trail.covering(at(2011)), None, "nobody has asked since");
    }

    #[test]
    fn beyond_is_not_at() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let trail = trail(start, &[(0, 10), (1000, 20), (2000, 20), (3000, 30), (3010, 31)]);
        assert_eq!(trail.beyond(Lsn(5)), Some(at(0)));
        assert_eq!(trail.beyond(Lsn(10)), Some(at(1000)));
        assert_eq!(trail.beyond(Lsn(20)), Some(at(3000)));
        assert_eq!(trail.beyond(Lsn(30)), Some(at(3010)), "the latest counts, too");
        assert_eq!(trail.beyond(Lsn(31)), None);
    }

    #[test]
    fn lag_is_the_age_of_the_first_thing_missed() {
        let start = Instant::now();
        let now = start + Duration::from_secs(5);
        let busy = trail(start, &[(0, 10), (1000, 20), (2000, 30)]);
        assert_eq!(busy.lag(Lsn(30), now), Some(Duration::ZERO));
        assert_eq!(busy.lag(Lsn(29), now), Some(Duration::from_secs(3)));
        assert_eq!(busy.lag(Lsn(15), now), Some(Duration::from_secs(4)));
        assert_eq!(busy.lag(Lsn(0), now), Some(Duration::from_secs(5)));
        let idle = trail(start, &[(0, 10), (1000, 10), (4900, 10)]);
        assert_eq!(
            idle.lag(Lsn(10), now),
            Some(Duration::ZERO),
            "an idle primary has no lag"
        );
        assert_eq!(Trail::default().lag(Lsn(1), now), None);
    }

    #[test]
    fn many_questions_do_not_push_the_past_out() {
        let start = Instant::now();
        let mut trail = Trail::default();
        for ms in 0..20_000 {
            trail.push(start + Duration::from_millis(ms), Lsn(ms));
        }
        assert!(trail.samples.len() <= KEPT);
        assert_eq!(trail.covering(start), Some(Lsn(0)));
        assert_eq!(trail.latest(), Some(Lsn(19_999)));
        trail.push(start, Lsn(5));
        assert_eq!(
            trail.latest(),
            Some(Lsn(19_999)),
            "an answer that comes late changes nothing"
        );
    }

    #[test]
    fn a_page_header_is_no_record() {
        assert_eq!(end_of_records(Lsn(0x3000018)), Lsn(0x3000000));
        assert_eq!(end_of_records(Lsn(0x3000028)), Lsn(0x3000028));
        assert_eq!(end_of_records(Lsn(0x3000100)), Lsn(0x3000100));
    }
}
