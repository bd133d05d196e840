//! What a statement yields, at once or piece by piece.

use sqlx::{
    Either,
    postgres::{PgQueryResult, PgRow},
};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The rows of a finished statement, with its count of affected rows.
#[derive(Default)]
pub struct Rows {
    /// All rows that were asked for, in the server's order.
    pub rows: Vec<PgRow>,
    /// Rows affected, summed over the statements of the text.
    pub result: PgQueryResult,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the values: rows may hold anything.
        f.debug_struct("Rows")
            .field("rows", &self.rows.len())
            .field("result", &self.result)
            .finish()
    }
}

/// One step of a result: a row, or the end of one statement.
pub type Step = Either<PgQueryResult, PgRow>;

/// The place where a running statement leaves steps for the stream that the caller polls.
///
/// Both sides are polled by one task, side by side, so that a slow reader holds the server back and a dropped
/// stream drops the statement. At most one batch waits here.
#[derive(Default)]
pub struct Handoff(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    batch: Vec<Step>,
    full: bool,
    started: bool,
    producer: Option<Waker>,
}

impl Handoff {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a step has already been handed to the reader: from then on the statement can't be replayed.
    pub fn started(&self) -> bool {
        self.slot().started
    }

    /// Forgets what an earlier attempt left and nobody has read.
    pub fn reset(&self) {
        let mut slot = self.slot();
        if !slot.started {
            slot.batch.clear();
            slot.full = false;
        }
    }

    /// The producer's side: waits until the reader has taken the batch before.
    pub fn poll_put(&self, batch: &mut Vec<Step>, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.slot();
        if slot.full {
            slot.producer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut slot.batch, batch);
        batch.clear();
        slot.full = true;
        Poll::Ready(())
    }

    /// The producer's side at the end of the statement: the last batch, which needs no waiting.
    pub fn finish(&self, rest: &mut Vec<Step>) {
        self.slot().batch.append(rest);
    }

    /// The reader's side: the batch that waits, if any. `last` takes what [`Handoff::finish`] left as well.
    pub fn take(&self, last: bool) -> Option<Vec<Step>> {
        let mut slot = self.slot();
        let there = slot.full || (last && !slot.batch.is_empty());
        if !there {
            return None;
        }
        slot.full = false;
        slot.started = true;
        let batch = std::mem::take(&mut slot.batch);
        if let Some(producer) = slot.producer.take() {
            drop(slot);
            producer.wake();
        }
        Some(batch)
    }
}

impl fmt::Debug for Handoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoff")
            .field("started", &self.started())
            .finish_non_exhaustive()
    }
}
