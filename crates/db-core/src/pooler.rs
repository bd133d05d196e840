//! What changes when a transaction pooler, such as PgBouncer, stands before the server.

/// The lease's session is somebody else's between two transactions: the pooler lends it the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSession {
    /// Whether the pooler follows prepared statements from one server session to the next (PgBouncer 1.21 with
    /// `max_prepared_statements`). Without, a statement with arguments runs in a transaction of its own.
    pub named_statements: bool,
    /// `SET LOCAL …` for the limits that a session of one's own would have; empty when there are none.
    pub limits: Box<str>,
}

impl SharedSession {
    /// The text that begins a transaction, by `begin` or plainly, with the limits in it: one trip.
    pub fn begin(&self, begin: Option<&str>) -> String {
        let begin = begin.unwrap_or("BEGIN").trim_end().trim_end_matches(';');
        match &*self.limits {
            "" => begin.to_owned(),
            limits => format!("{begin}; {limits}"),
        }
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
        };
        assert_eq!(session.begin(None), "BEGIN; SET LOCAL lock_timeout = '1s'");
        assert_eq!(
            session.begin(Some("BEGIN READ ONLY; ")),
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '1s'"
        );
        session.limits = "".into();
        assert_eq!(session.begin(None), "BEGIN");
    }
}
