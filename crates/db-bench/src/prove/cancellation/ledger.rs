//! What each call may have written, against what is in the table.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU8, Ordering},
};

use sqlx::PgConnection;

const NOT: u8 = 0;
const MAYBE: u8 = 1;
const MUST: u8 = 2;

/// How far a write got; lives outside of the call's future, which may be dropped at any point.
#[derive(Default)]
pub(crate) struct Stage(AtomicU8);

impl Stage {
    /// What makes it durable is about to be sent.
    pub(crate) fn sending(&self) {
        self.0.store(MAYBE, Ordering::Relaxed);
    }

    /// The server has acknowledged it.
    pub(crate) fn acknowledged(&self) {
        self.0.store(MUST, Ordering::Relaxed);
    }
}

/// One worker's writes by row id.
#[derive(Default)]
pub(crate) struct Ledger(Vec<(i64, u8)>);

/// The comparison with the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) acknowledged: usize,
    /// Acknowledged and not there.
    pub(crate) lost: usize,
    /// There, though nothing was sent that would have made it durable.
    pub(crate) ghosts: usize,
    /// There more than once.
    pub(crate) doubled: usize,
}

impl Ledger {
    pub(crate) fn note(&mut self, id: i64, stage: &Stage) {
        self.0.push((id, stage.0.load(Ordering::Relaxed)));
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) async fn audit(&self, admin: &mut PgConnection) -> sqlx::Result<Audit> {
        let stored: Vec<(i64, i64)> = sqlx::query_as("SELECT id, count(*) FROM written GROUP BY id")
            .fetch_all(admin)
            .await?;
        Ok(self.compare(&stored.into_iter().collect()))
    }

    fn compare(&self, stored: &HashMap<i64, i64>) -> Audit {
        let mut audit = Audit::default();
        for (id, stage) in &self.0 {
            let copies = stored.get(id).copied().unwrap_or(0);
            audit.acknowledged += usize::from(*stage == MUST);
            audit.lost += usize::from(*stage == MUST && copies == 0);
            audit.ghosts += usize::from(*stage == NOT && copies > 0);
            audit.doubled += usize::from(copies > 1);
        }
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_counted() {
        let ledger = Ledger(vec![
            (1, MUST),
            (2, MUST),
            (3, NOT),
            (4, MAYBE),
            (5, MAYBE),
            (6, NOT),
            (7, MUST),
        ]);
        let stored = HashMap::from([(1, 1), (3, 1), (5, 1), (7, 2)]);
        let audit = Audit {
            acknowledged: 3,
            lost: 1,
            ghosts: 1,
            doubled: 1,
        };
        assert_eq!(ledger.compare(&stored), audit);
    }
}
