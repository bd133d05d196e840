//! Compares every read with the writes that had ended before it began.

use crate::prove::coherence::{Act, BOUND, Log};
use std::collections::HashMap;

/// What was found wrong, or late.
pub(crate) struct Checked {
    /// Reads that lack a write of their own process.
    pub(crate) own: u64,
    /// Reads that lack another writer's for longer than a dead listener may go unnoticed.
    pub(crate) late: u64,
    /// Reads that lack what had been written before their process's listener came back.
    pub(crate) after_reconnect: u64,
    /// How late the reads were that lack another writer's, in nanoseconds.
    pub(crate) delays: Vec<u64>,
}

/// For each count of a cell, when the first write had ended that made it larger.
#[derive(Default)]
struct Ends(HashMap<u32, Vec<u64>>);

impl Ends {
    fn of<'a>(writes: impl Iterator<Item = &'a Act>) -> Self {
        let mut ends: HashMap<u32, Vec<u64>> = HashMap::new();
        for write in writes {
            let cell = ends.entry(write.cell).or_default();
            let count = usize::try_from(write.count).unwrap_or_default();
            if cell.len() <= count {
                // Of writes in between nobody knows when they ended, if they ended well at all.
                cell.resize(count + 1, u64::MAX);
            }
            cell[count] = write.ended;
        }
        for cell in ends.values_mut() {
            let mut first = u64::MAX;
            for end in cell.iter_mut().rev() {
                first = first.min(*end);
                *end = first;
            }
        }
        Self(ends)
    }

    /// When the first write had ended that this read lacks.
    fn lacks(&self, read: &Act) -> u64 {
        let next = usize::try_from(read.count + 1).unwrap_or_default();
        self.0
            .get(&read.cell)
            .and_then(|cell| cell.get(next))
            .copied()
            .unwrap_or(u64::MAX)
    }
}

pub(crate) fn check(logs: &[Log], beside: &[Act]) -> Checked {
    let all = Ends::of(logs.iter().flat_map(|log| &log.writes).chain(beside));
    let bound = u64::try_from(BOUND.as_nanos()).unwrap_or(u64::MAX);
    let mut checked = Checked {
        own: 0,
        late: 0,
        after_reconnect: 0,
        delays: Vec::new(),
    };
    for log in logs {
        let own = Ends::of(log.writes.iter());
        for read in &log.reads {
            checked.own += u64::from(own.lacks(read) < read.began);
            let lacked_since = all.lacks(read);
            if lacked_since < read.began {
                let delay = read.began - lacked_since;
                checked.late += u64::from(delay > bound);
                checked.delays.push(delay);
            }
            let came_back = log.listening_since.partition_point(|at| *at <= read.began);
            let came_back = came_back.checked_sub(1).map_or(0, |at| log.listening_since[at]);
            checked.after_reconnect += u64::from(lacked_since < came_back);
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(count: i64, began: u64, ended: u64) -> Act {
        Act {
            cell: 1,
            count,
            began,
            ended,
        }
    }

    #[test]
    fn a_read_that_lacks_a_write_is_found() {
        let mut log = Log {
            writes: vec![act(1, 10, 20), act(3, 50, 60)],
            reads: vec![act(1, 30, 31), act(0, 15, 16)],
            ..Log::default()
        };
        let beside = [act(2, 30, 40)];
        let fine = check(std::slice::from_ref(&log), &beside);
        assert_eq!(
            (fine.own, fine.late, fine.after_reconnect, fine.delays.len()),
            (0, 0, 0, 0)
        );
        log.reads = vec![act(0, 21, 22), act(1, 45, 46), act(2, 61, 62)];
        log.listening_since = vec![5, 42];
        let wrong = check(&[log], &beside);
        assert_eq!((wrong.own, wrong.after_reconnect), (2, 1));
        assert_eq!(wrong.delays, [1, 5, 1]);
    }
}
