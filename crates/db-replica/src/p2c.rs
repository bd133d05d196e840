//! The better of two at random, of those that are no outliers.

use crate::{outlier::Fastest, readers::Reader};
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Of the readers that `allows` lets through, two at random, and the cheaper of the two. With all readers compared, every
/// caller would run to the same one. An outlier is no candidate while there are others: with many calls under way on
/// those, it would look cheap. It gets a read now and then, to see whether it still is one.
pub(crate) fn pick<S>(
    readers: &[Arc<Reader<S>>],
    decay: Duration,
    allows: impl Fn(&Reader<S>) -> bool,
) -> Option<Arc<Reader<S>>> {
    let serving = readers.iter().filter(|reader| reader.node.serves());
    let fastest = Fastest::of(serving.map(|reader| &reader.node.load.pace));
    let now = Instant::now();
    let (mut candidates, mut outliers, mut due) = (Sample::default(), Sample::default(), None);
    for reader in readers.iter().filter(|reader| allows(reader)) {
        let load = &reader.node.load;
        if !load.pace.judge(fastest) {
            candidates.add(reader);
            continue;
        }
        outliers.add(reader);
        load.compared(false);
        if due.is_none() && load.is_due(now, decay, fastest) {
            due = Some(reader);
        }
    }
    if let Some(due) = due {
        due.node.load.compared(true);
        return Some(due.clone());
    }
    let sample = if candidates.seen > 0 { candidates } else { outliers };
    sample.better(now, decay).cloned()
}

/// A random sample of two in one pass.
struct Sample<'a, S> {
    first: Option<&'a Arc<Reader<S>>>,
    second: Option<&'a Arc<Reader<S>>>,
    seen: usize,
}

impl<'a, S> Sample<'a, S> {
    fn add(&mut self, reader: &'a Arc<Reader<S>>) {
        self.seen += 1;
        match self.seen {
            1 => self.first = Some(reader),
            2 => self.second = Some(reader),
            seen => match fastrand::usize(..seen) {
                0 => self.first = Some(reader),
                1 => self.second = Some(reader),
                _ => {}
            },
        }
    }

    fn better(&self, now: Instant, decay: Duration) -> Option<&'a Arc<Reader<S>>> {
        let (Some(first), Some(second)) = (self.first, self.second) else {
            return self.first;
        };
        let busy = |reader: &Reader<S>| reader.node.load.now(now, decay);
        let second_is_better = match busy(second).compare(busy(first)) {
            Ordering::Less => true,
            // Equals alternate: the sample is in the order of the list.
            Ordering::Equal => fastrand::bool(),
            Ordering::Greater => false,
        };
        first.node.load.compared(!second_is_better);
        second.node.load.compared(second_is_better);
        Some(if second_is_better { second } else { first })
    }
}

impl<S> Default for Sample<'_, S> {
    fn default() -> Self {
        Self {
            first: None,
            second: None,
            seen: 0,
        }
    }
}
