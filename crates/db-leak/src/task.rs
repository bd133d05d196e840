//! Which task this is.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::task;

/// Takes the number out of an opaque id: tokio's task ids are numbers that it only shows and hashes.
struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// The task that is polled now. What runs outside of any task (in `block_on`) goes by its thread.
pub(crate) fn current() -> u64 {
    let Some(id) = task::try_id() else {
        return thread();
    };
    let mut number = Number(0);
    id.hash(&mut number);
    number.finish()
}

fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static MINE: u64 = NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that ends may drop futures after its locals.
    MINE.try_with(|mine| (1 << 63) | *mine).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_differ_and_stay_the_same() {
        let outside = current();
        assert_eq!(current(), outside);
        let task = || tokio::spawn(async { (current(), tokio::task::yield_now().await, current()) });
        let (one, two) = (task().await.unwrap(), task().await.unwrap());
        assert_eq!(one.0, one.2);
        assert!(one.0 != two.0 && one.0 != outside);
    }
}
