//! The place between a running statement and the reader of its stream.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Handoff, Step};
use sqlx::{Either, postgres::PgQueryResult};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Rows can't be made without a server; a result can, and is a step as well.
fn steps(count: usize) -> Vec<Step> {
    (0..count).map(|_| Either::Left(PgQueryResult::default())).collect()
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn put(handoff: &Handoff, batch: &mut Vec<Step>, waker: &Waker) -> bool {
    handoff.poll_put(batch, &mut Context::from_waker(waker)) == Poll::Ready(())
}

#[test]
fn at_most_one_batch_waits() {
    let (handoff, count) = (Handoff::default(), Arc::<Count>::default());
    let waker = Waker::from(count.clone());
    let (mut first, mut second) = (steps(3), steps(2));
    assert!(put(&handoff, &mut first, &waker));
    assert!(first.is_empty(), "taken over");
    assert!(!put(&handoff, &mut second, &waker), "the reader has not come yet");
    assert_eq!(
        (second.len(), count.0.load(Ordering::Relaxed)),
        (2, 0),
        "kept by the producer, not woken"
    );
    assert_eq!(handoff.take(false).unwrap().len(), 3);
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "woken when there is room");
    assert!(put(&handoff, &mut second, &waker));
    assert_eq!(handoff.take(false).unwrap().len(), 2);
    assert!(handoff.take(false).is_none());
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "nobody to wake");
}

#[test]
fn what_is_left_at_the_end_is_only_taken_at_the_end() {
    let handoff = Handoff::default();
    handoff.finish(&mut steps(2));
    assert!(handoff.take(false).is_none());
    assert!(!handoff.started());
    assert_eq!(handoff.take(true).unwrap().len(), 2);
    assert!(handoff.started());
    assert!(handoff.take(true).is_none());
    // Nothing at all is no batch.
    let empty = Handoff::default();
    empty.finish(&mut Vec::new());
    assert!(empty.take(true).is_none());
    assert!(!empty.started());
}

#[test]
fn a_rest_joins_the_batch_that_still_waits() {
    let handoff = Handoff::default();
    assert!(put(&handoff, &mut steps(3), Waker::noop()));
    handoff.finish(&mut steps(2));
    assert_eq!(handoff.take(true).unwrap().len(), 5);
    assert!(handoff.take(true).is_none());
}

#[test]
fn another_attempt_forgets_what_nobody_has_read() {
    let handoff = Handoff::default();
    assert!(put(&handoff, &mut steps(3), Waker::noop()));
    handoff.reset();
    assert!(handoff.take(true).is_none());
    assert!(put(&handoff, &mut steps(1), Waker::noop()), "there is room again");
    assert_eq!(handoff.take(false).unwrap().len(), 1);
    // Once something has been handed out there is no other attempt: nothing is forgotten.
    assert!(put(&handoff, &mut steps(4), Waker::noop()));
    handoff.reset();
    assert_eq!(handoff.take(false).unwrap().len(), 4);
}
