//! Who goes first: said on a handle, or once for a whole task.

use crate::Db;
use db_core::{Call, Priority};
use std::future::Future;

tokio::task_local! {
    static PRIORITY: Priority;
}

/// Runs `work` with this priority for every call in it whose handle does not say another one. A handler sets it once;
/// tasks that it spawns have their own.
///
/// ```
/// use db_stack::{Db, Priority, with_priority};
///
/// # async fn example(db: Db) -> sqlx::Result<()> {
/// with_priority(Priority::Critical, async {
///     sqlx::query("UPDATE orders SET state = 'filled' WHERE id = 7").execute(&db).await
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub fn with_priority<F: Future>(priority: Priority, work: F) -> impl Future<Output = F::Output> {
    PRIORITY.scope(priority, work)
}

impl Db {
    /// The same database for calls of this priority; without one, that of [`with_priority`] counts, else
    /// [`Priority::Normal`].
    #[must_use]
    #[track_caller]
    pub fn priority(&self, priority: Priority) -> Self {
        let mut db = self.with(|call| call.priority = priority);
        db.urgency_said = true;
        db
    }

    /// The same database for what the service exists for: it gets the next lease, and is shed last.
    #[must_use]
    #[track_caller]
    pub fn critical(&self) -> Self {
        self.priority(Priority::Critical)
    }

    /// The same database for what a user waits for and notices.
    #[must_use]
    #[track_caller]
    pub fn high(&self) -> Self {
        self.priority(Priority::High)
    }

    /// The same database for what nobody waits for: it gets what the others leave, and is shed first.
    #[must_use]
    #[track_caller]
    pub fn background(&self) -> Self {
        self.priority(Priority::Background)
    }

    /// What this handle and its task wish for a call.
    pub(crate) fn wishes(&self) -> Call {
        let mut call = self.call.clone();
        if !self.urgency_said {
            // Outside of `with_priority` there is none to get.
            call.priority = PRIORITY.try_with(|priority| *priority).unwrap_or(call.priority);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handle_wins_over_its_task_and_a_spawned_task_has_its_own() {
        let db = Db::connect_lazy("postgres://localhost/app").unwrap();
        assert_eq!(db.wishes().priority, Priority::Normal);
        with_priority(Priority::Critical, async {
            assert_eq!(db.wishes().priority, Priority::Critical);
            assert_eq!(db.background().wishes().priority, Priority::Background);
            assert_eq!(db.priority(Priority::Normal).wishes().priority, Priority::Normal);
            let inner = with_priority(Priority::High, async { db.wishes().priority });
            assert_eq!(inner.await, Priority::High);
            let spawned = tokio::spawn({
                let db = db.clone();
                async move { db.wishes().priority }
            });
            assert_eq!(spawned.await.unwrap(), Priority::Normal);
        })
        .await;
        assert_eq!(db.high().call.site.unwrap().file(), file!());
    }
}
