//! How a transaction is begun.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::{fmt::Write, time::Duration};

/// What other transactions a transaction may see. PostgreSQL treats "read uncommitted" as read committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// Every statement sees what was committed before the first one; a conflict is SQLSTATE 40001.
    RepeatableRead,
    /// As if transactions ran one after the other; a conflict is SQLSTATE 40001.
    Serializable,
}

/// How a transaction is begun and how often it is tried. Rides on a handle: `db.isolation(..).read_only()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOptions {
    /// Default: the server's.
    pub isolation: Option<Isolation>,
    /// Refuse writes.
    pub read_only: bool,
    /// With serializable and read only: wait for a snapshot that can't conflict.
    pub deferrable: bool,
    /// The longest that the transaction may take, from `BEGIN` to the answer to `COMMIT`, in one attempt.
    pub timeout: Option<Duration>,
    /// Attempts in total; default from the configuration.
    pub attempts: Option<u32>,
}

impl TxOptions {
    /// The `BEGIN` statement, where it says more than `BEGIN`.
    pub(crate) fn statement(&self) -> Option<SqlStr> {
        let mut sql = String::from("BEGIN");
        if let Some(isolation) = self.isolation {
            let level = match isolation {
                Isolation::ReadCommitted => "READ COMMITTED",
                Isolation::RepeatableRead => "REPEATABLE READ",
                Isolation::Serializable => "SERIALIZABLE",
            };
            // Writing to a string can't fail.
            let _ = write!(sql, " ISOLATION LEVEL {level}");
        }
        if self.read_only {
            sql.push_str(" READ ONLY");
        }
        if self.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        (sql.len() > "BEGIN".len()).then(|| AssertSqlSafe(sql).into_sql_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_only_what_was_asked_for() {
        assert!(TxOptions::default().statement().is_none());
        let report =
            TxOptions { isolation: Some(Isolation::Serializable), read_only: true, deferrable: true, ..Default::default() };
        assert_eq!(
            report.statement().map(|sql| sql.as_str().to_owned()).as_deref(),
            Some("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
        );
    }
}
