//! The rows of the table that are no SQLSTATE, through the public function.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use db_core::{
    AcquireError, AcquireFailure, BreakerCause, BreakerOpen, BreakerState, Call, ConnectFailure, Error, LeaseState,
    LimitOrigin, QueryClass, Sent, SqlState, Statement, TimeoutError, TransactionAborted, config::InvalidConfig,
};
use db_retry::{Effect, Fate, Phase, Situation, Verdict, decide, fate};
use std::{io, sync::Arc, time::Duration};

fn network(sent: Sent, source: sqlx::Error) -> Error {
    Error::Network {
        sent,
        source: Box::new(source),
    }
}

fn io_error(kind: io::ErrorKind) -> sqlx::Error {
    sqlx::Error::Io(kind.into())
}

fn acquire(failure: AcquireFailure, cause: Option<sqlx::Error>) -> Error {
    let mut error = AcquireError::new(failure, Duration::ZERO);
    error.cause = cause.map(|cause| Arc::new(ConnectFailure::new(cause)));
    error.into()
}

fn timeout() -> TimeoutError {
    TimeoutError::new(
        QueryClass::Fast,
        LimitOrigin::Class,
        Duration::from_secs(1),
        Duration::from_secs(1),
    )
}

fn columns(error: &Error) -> String {
    let all = [
        (Effect::Read, Phase::Autocommit),
        (Effect::Write, Phase::Autocommit),
        (Effect::Idempotent, Phase::Autocommit),
        (Effect::Write, Phase::InTransaction),
        (Effect::Write, Phase::Commit),
    ];
    let short = |verdict| match verdict {
        Verdict::Never => "N",
        Verdict::Once(_) => "R1",
        Verdict::Backoff(_) => "RB",
        Verdict::RerunTransaction(_) => "TX",
        Verdict::Ambiguous => "AMB",
    };
    all.map(|(effect, phase)| short(decide(error, &Situation::new(effect, phase))))
        .join(" ")
}

#[test]
fn failures_that_are_no_message_of_the_server() {
    let emfile = || sqlx::Error::Io(io::Error::from_raw_os_error(24));
    let aborted = |state| Error::from(TransactionAborted::StatementFailed(state));
    let unknown = Error::CommitUnknown {
        source: Box::new(sqlx::Error::WorkerCrashed.into()),
    };
    let rows: Vec<(Error, Fate, &str)> = vec![
        // Shed here.
        (acquire(AcquireFailure::QueueFull, None), Fate::NotSent, "N N N N AMB"),
        (acquire(AcquireFailure::TimedOut, None), Fate::NotSent, "N N N N AMB"),
        (acquire(AcquireFailure::Closed, None), Fate::NotSent, "N N N N AMB"),
        (acquire(AcquireFailure::Refused, None), Fate::NotSent, "N N N N AMB"),
        (sqlx::Error::PoolTimedOut.into(), Fate::NotSent, "N N N N AMB"),
        (sqlx::Error::PoolClosed.into(), Fate::NotSent, "N N N N AMB"),
        (
            TimeoutError::before_start(QueryClass::Fast, LimitOrigin::Class).into(),
            Fate::NotSent,
            "N N N N AMB",
        ),
        (
            BreakerOpen::new(BreakerState::Open, BreakerCause::Timeout, Some(Duration::from_secs(1))).into(),
            Fate::NotSent,
            "N N N N AMB",
        ),
        // Not connected.
        (acquire(AcquireFailure::Down, None), Fate::NotSent, "RB RB RB TX AMB"),
        (
            acquire(AcquireFailure::Down, Some(io_error(io::ErrorKind::ConnectionRefused))),
            Fate::NotSent,
            "RB RB RB TX AMB",
        ),
        (
            acquire(AcquireFailure::TooManyConnections, None),
            Fate::NotSent,
            "RB RB RB TX AMB",
        ),
        (
            network(Sent::No, io_error(io::ErrorKind::ConnectionReset)),
            Fate::NotSent,
            "RB RB RB TX AMB",
        ),
        // Our own shortage, or a matter of configuration.
        (
            acquire(AcquireFailure::Down, Some(emfile())),
            Fate::NotSent,
            "N N N N AMB",
        ),
        (
            acquire(AcquireFailure::Down, Some(io_error(io::ErrorKind::AddrNotAvailable))),
            Fate::NotSent,
            "N N N N AMB",
        ),
        (
            sqlx::Error::Tls("certificate".into()).into(),
            Fate::NotSent,
            "N N N N AMB",
        ),
        (
            InvalidConfig::one("retry.cap", "0", "more").into(),
            Fate::NotSent,
            "N N N N AMB",
        ),
        // The wire broke.
        (
            io_error(io::ErrorKind::UnexpectedEof).into(),
            Fate::MayHaveRun,
            "RB AMB RB TX AMB",
        ),
        (
            io_error(io::ErrorKind::ConnectionReset).into(),
            Fate::MayHaveRun,
            "RB AMB RB TX AMB",
        ),
        (
            io_error(io::ErrorKind::BrokenPipe).into(),
            Fate::MayHaveRun,
            "RB AMB RB TX AMB",
        ),
        (
            sqlx::Error::Protocol("nonsense".into()).into(),
            Fate::MayHaveRun,
            "RB AMB RB TX AMB",
        ),
        (sqlx::Error::WorkerCrashed.into(), Fate::MayHaveRun, "RB AMB RB TX AMB"),
        (timeout().into(), Fate::MayHaveRun, "N AMB AMB N AMB"),
        (unknown, Fate::MayHaveRun, "AMB AMB AMB AMB AMB"),
        // COMMIT answered by ROLLBACK.
        (aborted(SqlState::DeadlockDetected), Fate::Rejected, "RB RB RB TX TX"),
        (
            aborted(SqlState::SerializationFailure),
            Fate::Rejected,
            "RB RB RB TX TX",
        ),
        (aborted(SqlState::UniqueViolation), Fate::Rejected, "N N N N N"),
        (
            TransactionAborted::StatementCancelled.into(),
            Fate::Rejected,
            "N N N N N",
        ),
        (TransactionAborted::EndedInside.into(), Fate::Rejected, "N N N N N"),
        // On our side of the wire.
        (
            sqlx::Error::Encode("too many".into()).into(),
            Fate::NotSent,
            "N N N N AMB",
        ),
        (sqlx::Error::RowNotFound.into(), Fate::MayHaveRun, "N N N N AMB"),
        (
            sqlx::Error::Decode("not a number".into()).into(),
            Fate::MayHaveRun,
            "N N N N AMB",
        ),
        (
            sqlx::Error::ColumnNotFound("a".into()).into(),
            Fate::MayHaveRun,
            "N N N N AMB",
        ),
    ];
    for (error, happened, wanted) in rows {
        assert_eq!(columns(&error), wanted, "{error:?}");
        assert_eq!(fate(&error), happened, "{error:?}");
    }
}

#[test]
fn only_true_reads_are_reads() {
    let effect = |sql: &str, call: &Call| {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        Effect::of(call, Some(Statement::all(sqlx::query(sql)).unwrap().facts()))
    };
    let (plain, idempotent) = (Call::default(), Call::default().with_idempotent());
    assert_eq!(effect("SELECT id FROM orders WHERE id = 1", &plain), Effect::Read);
    for sql in [
        "SELECT nextval('seq')",
        "SELECT pg_notify('a', 'b')",
        "SELECT * FROM orders FOR UPDATE",
        "SELECT my_function()",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
        "INSERT INTO orders VALUES (1)",
    ] {
        assert_eq!(effect(sql, &plain), Effect::Write, "{sql}");
        assert_eq!(effect(sql, &idempotent), Effect::Idempotent, "{sql}");
    }
    assert_eq!(Effect::of(&plain, None), Effect::Write);
}

#[test]
fn the_connection_of_a_stale_plan_forgets_its_statements_and_a_poisoned_one_is_looked_at() {
    let after = |code| LeaseState::after(&common::server(code));
    assert_eq!(after("26000"), LeaseState::StalePlans);
    assert_eq!(after("42P05"), LeaseState::StalePlans);
    assert_eq!(
        after("0A000"),
        LeaseState::Clean,
        "without the routine it is just not supported"
    );
    for code in ["25P02", "25001", "25P01"] {
        assert_eq!(after(code), LeaseState::Verify, "{code}");
    }
    assert_eq!(after("40001"), LeaseState::Clean);
}
