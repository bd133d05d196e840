//! What may run where, and what a failure on a replica means: pure functions.

use crate::shared::is_fault;
use db_core::{AcquireFailure, Call, Error, SqlState, StatementFacts, Target};

/// Where a call may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A replica, if one can show what the call must see.
    Replica,
    /// The primary only.
    Primary {
        /// Whether it may write.
        writes: bool,
    },
}

/// Pure reads go to replicas: what locks, calls a volatile or unknown function, or is not understood does not.
pub(crate) fn route(call: &Call, facts: Option<&StatementFacts>) -> Route {
    match (facts.is_some_and(StatementFacts::is_pure_read), call.target) {
        (false, _) => Route::Primary { writes: true },
        (true, Target::Primary) => Route::Primary { writes: false },
        (true, _) => Route::Replica,
    }
}

/// Where a read that failed on a replica may run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nowhere: it would fail there, too.
    Nowhere,
    /// On another node: this one is in trouble.
    Elsewhere,
    /// On the primary: every replica would refuse it.
    Primary,
}

/// What the failure of a pure read on a replica means.
pub(crate) fn again(error: &Error) -> Again {
    match error {
        error if is_fault(error) => Again::Elsewhere,
        // Its breaker knows what happened.
        Error::Breaker(_) => Again::Elsewhere,
        Error::Acquire(acquire) => match acquire.failure {
            AcquireFailure::QueueFull | AcquireFailure::Closed => Again::Elsewhere,
            _ => Again::Nowhere,
        },
        Error::Server(server) => match server.state() {
            // Conflicts with recovery: what a read needed has been removed on the primary.
            SqlState::SerializationFailure | SqlState::DeadlockDetected => Again::Primary,
            // The schema has not arrived yet.
            SqlState::UndefinedTable | SqlState::UndefinedColumn | SqlState::UndefinedFunction => Again::Primary,
            // Not during recovery, or it writes after all: a view can hide anything.
            SqlState::ReadOnlyTransaction | SqlState::ObjectNotInState => Again::Primary,
            SqlState::FeatureNotSupported if !server.state().is_stale_plan(server.routine()) => Again::Primary,
            _ => Again::Nowhere,
        },
        _ => Again::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::StatementFacts;
    use std::time::Duration;

    #[test]
    fn only_pure_reads_leave_the_primary() {
        let route_of = |sql, target| {
            let mut call = Call::default();
            call.target = target;
            route(&call, Some(&StatementFacts::of(sql)))
        };
        for sql in [
            "SELECT * FROM t WHERE a = $1",
            "WITH x AS (SELECT 1) SELECT * FROM x, t",
            "SELECT count(*), max(b), now() FROM t GROUP BY c",
            "VALUES (1)",
        ] {
            assert_eq!(route_of(sql, Target::Any), Route::Replica, "{sql}");
            assert_eq!(route_of(sql, Target::Fresh(Duration::ZERO)), Route::Replica, "{sql}");
            assert_eq!(
                route_of(sql, Target::Primary),
                Route::Primary { writes: false },
                "{sql}"
            );
        }
        for sql in [
            "SELECT * FROM t FOR UPDATE",
            "SELECT nextval('s')",
            "SELECT my_function(1)",
            "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
            "INSERT INTO t VALUES (1)",
            "SET work_mem = '1MB'",
            "BEGIN",
            "LOCK TABLE t",
            "DO $$ BEGIN END $$",
            "SELECT pg_advisory_lock(1)",
            "not SQL at all",
        ] {
            assert_eq!(route_of(sql, Target::Any), Route::Primary { writes: true }, "{sql}");
        }
        assert_eq!(route(&Call::default(), None), Route::Primary { writes: true });
    }
}
