//! The slow statements of late: what the live page lists, and who has had enough entries this second.

use crate::live::SlowLine;
use db_core::{CallReport, StatementFacts};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Statements that are remembered; the one that was slow longest ago leaves first.
const MOST: usize = 200;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<u64, Line>>);

struct Line {
    facts: Option<Arc<StatementFacts>>,
    count: u64,
    worst: Duration,
    last: Duration,
    last_at: Instant,
    /// The second that is being counted.
    second: Instant,
    listed: u32,
    skipped: u64,
}

/// What becomes of one slow call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It has an entry, which tells how many before it had none.
    Listed { skipped: u64 },
    /// It is only counted.
    Counted,
}

impl Lines {
    pub(crate) fn note(&self, report: &CallReport<'_>, per_second: u32) -> Seen {
        let key = report.facts.map_or(0, |facts| facts.fingerprint().get());
        let now = Instant::now();
        let mut lines = self.0.lock();
        if lines.len() >= MOST && !lines.contains_key(&key) {
            let oldest = lines.iter().min_by_key(|(_, line)| line.last_at).map(|(key, _)| *key);
            oldest.map(|oldest| lines.remove(&oldest));
        }
        let line = lines.entry(key).or_insert_with(|| Line {
            facts: report.facts.cloned(),
            count: 0,
            worst: Duration::ZERO,
            last: Duration::ZERO,
            last_at: now,
            second: now,
            listed: 0,
            skipped: 0,
        });
        line.count += 1;
        line.worst = line.worst.max(report.took);
        line.last = report.took;
        line.last_at = now;
        if now.duration_since(line.second) >= SECOND {
            line.second = now;
            line.listed = 0;
        }
        if line.listed >= per_second {
            line.skipped += 1;
            return Seen::Counted;
        }
        line.listed += 1;
        Seen::Listed {
            skipped: std::mem::take(&mut line.skipped),
        }
    }

    /// The worst first, as many as fit on a page.
    pub(crate) fn list(&self) -> Vec<SlowLine> {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let lines = self.0.lock();
        let mut list: Vec<_> = lines
            .iter()
            .map(|(key, line)| SlowLine {
                fingerprint: format!("{key:016x}"),
                summary: line
                    .facts
                    .as_ref()
                    .map_or("transaction", |facts| facts.summary())
                    .to_owned(),
                text: line.facts.as_ref().map_or("", |facts| facts.normalized()).to_owned(),
                count: line.count,
                worst_ms: ms(line.worst),
                last_ms: ms(line.last),
            })
            .collect();
        drop(lines);
        list.sort_by(|a, b| b.worst_ms.total_cmp(&a.worst_ms));
        list.truncate(20);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::{Call, Outcome, Spent};

    fn note(lines: &Lines, sql: &str) -> Seen {
        let (call, facts) = (Call::default(), Arc::new(StatementFacts::of(sql)));
        let mut report = CallReport::new(&call, Outcome::Done, SECOND, &Spent::NOTHING);
        report.facts = Some(&facts);
        lines.note(&report, 2)
    }

    #[test]
    fn a_statement_has_so_many_entries_in_a_second_and_the_rest_is_counted() {
        let lines = Lines::default();
        let seen: Vec<_> = (0..5).map(|_| note(&lines, "SELECT 1 FROM t")).collect();
        assert_eq!(seen.iter().filter(|s| **s == Seen::Counted).count(), 3);
        assert_eq!(lines.list()[0].count, 5);
        assert_eq!(lines.list()[0].summary, "SELECT t");
        std::thread::sleep(SECOND);
        assert_eq!(note(&lines, "SELECT 1 FROM t"), Seen::Listed { skipped: 3 });
    }

    #[test]
    fn statements_beyond_the_bound_push_out_the_oldest() {
        let lines = Lines::default();
        for i in 0..3 * MOST {
            note(&lines, &format!("SELECT 1 FROM t{i}"));
        }
        assert_eq!(lines.0.lock().len(), MOST);
    }
}
