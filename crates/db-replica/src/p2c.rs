//! The better of two at random.

use crate::readers::Reader;
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Of the readers that `allows` lets through, two at random, and the cheaper of the two. With all readers compared, every
/// caller would run to the same one.
pub(crate) fn pick<S>(
    readers: &[Arc<Reader<S>>],
    decay: Duration,
    allows: impl Fn(&Reader<S>) -> bool,
) -> Option<Arc<Reader<S>>> {
    let (mut first, mut second) = (None, None);
    let mut seen = 0_usize;
    // A random sample of two in one pass.
    for reader in readers.iter().filter(|reader| allows(reader)) {
        seen += 1;
        match seen {
            1 => first = Some(reader),
            2 => second = Some(reader),
            _ => match fastrand::usize(..seen) {
                0 => first = Some(reader),
                1 => second = Some(reader),
                _ => {}
            },
        }
    }
    let now = Instant::now();
    let busy = |reader: &Reader<S>| reader.node.load.now(now, decay);
    let (Some(first), Some(second)) = (first, second) else {
        return first.cloned();
    };
    let second_is_better = match busy(second).compare(busy(first)) {
        Ordering::Less => true,
        // Equals alternate: the sample is in the order of the list.
        Ordering::Equal => fastrand::bool(),
        Ordering::Greater => false,
    };
    first.node.load.compared(!second_is_better);
    second.node.load.compared(second_is_better);
    Some(if second_is_better { second } else { first }.clone())
}
