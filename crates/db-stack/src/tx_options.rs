//! How a transaction begins, and what it may cost.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::{fmt::Write, time::Duration};

/// The server's limits are this much longer: the client, which can cancel without losing the connection, comes first.
const BACKSTOP: Duration = Duration::from_millis(500);
/// The first server version that limits a transaction as a whole.
const LIMITS_TRANSACTIONS: u32 = 170_000;

/// What a transaction may see of others that run beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it. PostgreSQL's default.
    ReadCommitted,
    /// All statements see what was committed before the first one.
    RepeatableRead,
    /// As if all transactions ran one after the other; some of them have to run again (40001).
    Serializable,
}

impl Isolation {
    fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// How a transaction begins, how long it may take and how often it is tried. The default is that of the server and the
/// configuration.
///
/// ```
/// use db_stack::{Isolation, TxOptions};
/// use std::time::Duration;
///
/// let transfer = TxOptions::new().isolation(Isolation::Serializable).attempts(10).timeout(Duration::from_secs(2));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct TxOptions {
    isolation: Option<Isolation>,
    pub(crate) read_only: bool,
    deferrable: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    /// How long its first statement waits for a lock, when that is a token's.
    pub(crate) token_wait: Option<Duration>,
}

impl TxOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// The isolation level. Default: the session's, which is read committed unless configured otherwise.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Refuses to write.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Waits for a snapshot with which it can't fail; for transactions that are serializable and read-only.
    pub fn deferrable(mut self) -> Self {
        self.deferrable = true;
        self
    }

    /// The limit of each attempt, from BEGIN to the end of COMMIT. Default: `transaction.timeout`.
    ///
    /// The client gives up then, and cancels what runs. Half a second later the server does so as well, for a client that
    /// has died: by `transaction_timeout` from PostgreSQL 17 on, before that by its limits for each statement and idling.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Attempts in total, the first one included; 0 counts as 1. Default: `retry.max_attempts`, and for a class that is
    /// not to be retried 1. Only for those that can run again: not [`Db::begin`](crate::Db::begin).
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// One message that begins it, for a server of this version; `None` for a plain `BEGIN`.
    pub(crate) fn begin_sql(&self, server: Option<u32>) -> Option<SqlStr> {
        let mut sql = String::from("BEGIN");
        if let Some(isolation) = self.isolation {
            let _ = write!(sql, " ISOLATION LEVEL {}", isolation.sql());
        }
        for (wanted, mode) in [(self.read_only, " READ ONLY"), (self.deferrable, " DEFERRABLE")] {
            sql.push_str(if wanted { mode } else { "" });
        }
        let mut limit = |name: &str, limit: Duration| {
            // Zero would mean no limit.
            let _ = write!(
                sql,
                "; SET LOCAL {name} = {}",
                limit.as_millis().clamp(1, i32::MAX as u128)
            );
        };
        if let Some(timeout) = self.timeout.map(|timeout| timeout.saturating_add(BACKSTOP)) {
            if server >= Some(LIMITS_TRANSACTIONS) {
                limit("transaction_timeout", timeout);
            } else {
                limit("statement_timeout", timeout);
                limit("idle_in_transaction_session_timeout", timeout);
            }
        }
        if let Some(wait) = self.token_wait {
            limit("lock_timeout", wait);
        }
        // Made of our own words and numbers.
        (sql != "BEGIN").then(|| AssertSqlSafe(sql).into_sql_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(options: TxOptions, server: u32) -> String {
        options
            .begin_sql(Some(server))
            .map_or("BEGIN".to_owned(), |sql| sql.as_str().to_owned())
    }

    #[test]
    fn each_option_has_its_words() {
        let options = TxOptions::new();
        assert_eq!(sql(options, 150_000), "BEGIN");
        assert_eq!(sql(options.attempts(7), 150_000), "BEGIN");
        let all = options
            .isolation(Isolation::Serializable)
            .read_only()
            .deferrable()
            .timeout(Duration::from_secs(2));
        assert_eq!(
            sql(all, 150_018),
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SET LOCAL statement_timeout = 2500; \
             SET LOCAL idle_in_transaction_session_timeout = 2500"
        );
        assert_eq!(
            sql(options.timeout(Duration::from_micros(1)), 170_001),
            "BEGIN; SET LOCAL transaction_timeout = 500"
        );
    }
}
