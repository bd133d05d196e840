//! The better of two at random.

use crate::readers::Reader;
use std::{sync::Arc, time::Duration};
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
    let cost = |reader: &Reader<S>| reader.node.load.cost(now, decay);
    match (first, second) {
        (Some(first), Some(second)) if cost(second) < cost(first) => Some(second.clone()),
        // Equals alternate: the sample is in the order of the list.
        (Some(first), Some(second)) if cost(second) == cost(first) && fastrand::bool() => Some(second.clone()),
        (first, _) => first.cloned(),
    }
}
