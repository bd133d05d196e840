//! What changes when a transaction pooler, such as PgBouncer, stands before the server.

use std::sync::Arc;

/// The lease's session is somebody else's between two transactions: the pooler lends it the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSession {
    /// Whether the pooler follows prepared statements from one server session to the next (PgBouncer 1.21 with
    /// `max_prepared_statements`). Without, a statement with arguments runs in a transaction of its own.
    pub named_statements: bool,
    /// `SET LOCAL …` for the limits that a session of one's own would have; empty when there are none.
    pub limits: Box<str>,
    /// A comment that prepared texts carry since a plan was found out of date. The pooler keeps what it has prepared by its
    /// text, for as long as the server's session lives, and prepares another text anew.
    pub afresh: Option<Arc<str>>,
}

impl SharedSession {
    /// The text that begins a transaction, by `begin` or plainly, with the limits in it: one trip. What `begin` itself sets
    /// behind its first statement comes after them, and wins.
    pub fn begin(&self, begin: Option<&str>) -> String {
        let begin = begin.unwrap_or("BEGIN").trim_end().trim_end_matches(';');
        let plain = |first: &str| first.chars().all(|c| c.is_ascii_alphabetic() || c == ',' || c == ' ');
        match (&*self.limits, begin.split_once(';')) {
            ("", _) => begin.to_owned(),
            (limits, Some((first, rest))) if plain(first) => format!("{first}; {limits};{rest}"),
            (limits, _) => format!("{begin}; {limits}"),
        }
    }

    /// The limit of that name, as a statement of its own.
    pub fn limit(&self, name: &str) -> Option<&str> {
        let of_name = |line: &&str| {
            let rest = line.strip_prefix("SET LOCAL ").and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with(" = "))
        };
        self.limits.split("; ").find(of_name)
    }
}

/// What can't be done through a transaction pooler: it needs the same server session for longer than a transaction.
/// Nothing was sent. Connect to the server itself for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeedsSession {
    /// `SET`, a session advisory lock, `PREPARE`, a temporary table, a cursor `WITH HOLD`.
    #[error(
        "the statement leaves something in the session (a setting, a session lock, a temporary table, a prepared \
         statement), which a transaction pooler hands to others: use SET LOCAL, pg_advisory_xact_lock or \
         ON COMMIT DROP in a transaction, settings of the role, or connect to the server itself"
    )]
    Statement,
    /// `LISTEN`.
    #[error(
        "LISTEN needs a session of its own, which a transaction pooler does not give: connect to the server itself"
    )]
    Listen,
    /// A lease of the caller's own, behind a pooler that does not follow prepared statements.
    #[error(
        "a connection of one's own would run other clients' prepared statements: this pooler does not follow them; use \
         a transaction, or PgBouncer 1.21 or newer with max_prepared_statements"
    )]
    Lease,
    /// Describing a statement whose columns may be NULL: the driver asks for its plan by a name that only the pooler knows.
    #[error(
        "describing a statement asks the server by a name that this pooler has replaced: connect to the server itself"
    )]
    Describe,
    /// Preparing, or an operation that was not made for it, behind such a pooler.
    #[error(
        "prepared statements outlive their transaction, and this pooler does not follow them; use PgBouncer 1.21 or \
         newer with max_prepared_statements"
    )]
    Prepare,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_begin_with_the_transaction() {
        let mut session = SharedSession {
            named_statements: true,
            limits: "SET LOCAL lock_timeout = '1s'".into(),
            afresh: None,
        };
        assert_eq!(session.begin(None), "BEGIN; SET LOCAL lock_timeout = '1s'");
        assert_eq!(
            session.begin(Some("BEGIN READ ONLY; ")),
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '1s'"
        );
        assert_eq!(
            session.begin(Some("BEGIN READ ONLY; SET LOCAL lock_timeout = 5")),
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '1s'; SET LOCAL lock_timeout = 5"
        );
        assert_eq!(session.limit("lock_timeout"), Some("SET LOCAL lock_timeout = '1s'"));
        assert_eq!(session.limit("lock"), None);
        session.limits = "".into();
        assert_eq!(session.begin(None), "BEGIN");
    }
}
