//! The stack's error and sqlx's turn into each other without loss.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{
    AcquireError, AcquireFailure, ConnectFailure, Error, Holder, LimitOrigin, QueryClass, Sent, SqlState, TimeoutError,
    TransactionAborted, config::InvalidConfig,
};
use sqlx::error::{DatabaseError, ErrorKind};
use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

/// An error message of a server, without a server.
#[derive(Debug)]
struct Said(&'static str);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no")
    }
}

impl StdError for Said {}

impl DatabaseError for Said {
    fn message(&self) -> &str {
        "no"
    }
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }
    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

fn said(code: &'static str) -> sqlx::Error {
    sqlx::Error::Database(Box::new(Said(code)))
}

fn reset() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::ConnectionReset.into())
}

fn exhausted(failure: AcquireFailure) -> AcquireError {
    let mut error = AcquireError::new(failure, Duration::from_millis(5));
    (error.size, error.max, error.waiting) = (3, 4, 5);
    error.holders = vec![Holder::new(QueryClass::Slow, Duration::from_secs(2))];
    error.cause = Some(Arc::new(ConnectFailure::new(said("53300"))));
    error
}

/// One of each kind, and of each reason where the reasons differ in what a caller may do.
fn own_errors() -> Vec<Error> {
    use AcquireFailure as F;
    let mut errors: Vec<Error> = vec![
        said("23505").into(),
        said("XYZ99").into(),
        Error::Network {
            sent: Sent::No,
            source: Box::new(reset()),
        },
        Error::Network {
            sent: Sent::Maybe,
            source: Box::new(reset()),
        },
        Error::Network {
            sent: Sent::Maybe,
            source: Box::new(sqlx::Error::Protocol("odd".to_owned())),
        },
        TimeoutError::new(
            QueryClass::Fast,
            LimitOrigin::Class,
            Duration::from_secs(1),
            Duration::from_secs(2),
        )
        .into(),
        TimeoutError::before_start(QueryClass::Fast, LimitOrigin::Deadline).into(),
        TransactionAborted::StatementFailed(SqlState::DivisionByZero).into(),
        TransactionAborted::StatementCancelled.into(),
        TransactionAborted::EndedInside.into(),
        Error::CommitUnknown {
            source: Box::new(Error::Network {
                sent: Sent::Maybe,
                source: Box::new(reset()),
            }),
        },
        Error::CommitUnknown {
            source: Box::new(said("57P01").into()),
        },
        InvalidConfig::one("pool.max_connections", "0", "1..=10000").into(),
        Error::Client(sqlx::Error::RowNotFound),
        Error::Client(sqlx::Error::PoolTimedOut),
    ];
    for failure in [
        F::TimedOut,
        F::QueueFull,
        F::Down,
        F::TooManyConnections,
        F::Refused,
        F::Closed,
    ] {
        errors.push(exhausted(failure).into());
    }
    errors
}

#[test]
fn ours_to_sqlx_and_back() {
    for error in own_errors() {
        let (debug, display) = (format!("{error:?}"), error.to_string());
        let sqlx = sqlx::Error::from(error);
        let back = Error::from(sqlx);
        assert_eq!((format!("{back:?}"), back.to_string()), (debug, display));
    }
}

#[test]
fn sqlx_to_ours_and_back() {
    use sqlx::Error as E;
    let odd = || Box::<dyn StdError + Send + Sync>::from("odd");
    let errors = [
        E::Configuration(odd()),
        E::InvalidArgument("odd".to_owned()),
        said("23505"),
        E::RowNotFound,
        E::TypeNotFound {
            type_name: "odd".to_owned(),
        },
        E::ColumnIndexOutOfBounds { index: 1, len: 1 },
        E::ColumnNotFound("odd".to_owned()),
        E::ColumnDecode {
            index: "1".to_owned(),
            source: odd(),
        },
        E::Encode(odd()),
        E::Decode(odd()),
        E::AnyDriverError(odd()),
        E::PoolTimedOut,
        E::PoolClosed,
        E::Migrate(Box::new(sqlx::migrate::MigrateError::VersionMissing(7))),
        E::InvalidSavePointStatement,
        E::BeginFailed,
    ];
    for error in errors {
        let (debug, display) = (format!("{error:?}"), error.to_string());
        let back = E::from(Error::from(error));
        assert_eq!((format!("{back:?}"), back.to_string()), (debug, display));
    }
}

/// These are about the wire, and stay that for a caller that knows only sqlx.
#[test]
fn the_wires_errors_stay_io_errors_of_the_same_kind() {
    let kinds = [
        (io::ErrorKind::ConnectionReset, Sent::Maybe),
        (io::ErrorKind::BrokenPipe, Sent::Maybe),
        (io::ErrorKind::UnexpectedEof, Sent::Maybe),
        (io::ErrorKind::ConnectionRefused, Sent::Maybe),
    ];
    for (kind, expected) in kinds {
        let ours = Error::from(sqlx::Error::Io(kind.into()));
        assert!(
            matches!(&ours, Error::Network { sent, .. } if *sent == expected),
            "{ours:?}"
        );
        let sqlx::Error::Io(io) = sqlx::Error::from(ours) else {
            panic!("no I/O error any more")
        };
        assert_eq!(io.kind(), kind);
    }
    for broken in [sqlx::Error::Protocol("odd".to_owned()), sqlx::Error::WorkerCrashed] {
        assert!(matches!(Error::from(broken), Error::Network { sent: Sent::Maybe, .. }));
    }
    assert!(matches!(
        Error::from(sqlx::Error::Tls("odd".into())),
        Error::Network { sent: Sent::No, .. }
    ));
}

#[test]
fn ours_is_found_in_sqlxs_without_taking_it() {
    for error in own_errors() {
        let debug = format!("{error:?}");
        let carried = !matches!(error, Error::Server(_) | Error::Client(_));
        let sqlx = sqlx::Error::from(error);
        assert_eq!(
            Error::find(&sqlx).map(|found| format!("{found:?}")),
            carried.then_some(debug)
        );
        // Whoever walks the sources finds it too.
        let found = StdError::source(&sqlx).is_some_and(|source| !source.to_string().is_empty());
        assert_eq!(found, carried || matches!(sqlx, sqlx::Error::Database(_)), "{sqlx:?}");
    }
    assert!(Error::find(&reset()).is_none());
    assert!(Error::find(&sqlx::Error::Io(io::Error::other("somebody else's"))).is_none());
}

#[test]
fn a_callers_kind_of_failure_is_in_the_io_kind() {
    use AcquireFailure as F;
    for (failure, kind) in [
        (F::TimedOut, io::ErrorKind::TimedOut),
        (F::Down, io::ErrorKind::ConnectionRefused),
        (F::Refused, io::ErrorKind::PermissionDenied),
        (F::Closed, io::ErrorKind::NotConnected),
    ] {
        let sqlx::Error::Io(io) = sqlx::Error::from(Error::from(exhausted(failure))) else {
            panic!("no I/O error")
        };
        assert_eq!(io.kind(), kind);
    }
}

#[test]
fn the_sqlstate_is_seen_through() {
    let error = Error::from(said("23505"));
    assert_eq!(error.sqlstate(), Some(SqlState::UniqueViolation));
    assert_eq!(Error::from(reset()).sqlstate(), None);
    // Behind a failed acquire: by its sources, as an error report walks them.
    let error = Error::from(exhausted(AcquireFailure::TooManyConnections));
    let mut source: Option<&(dyn StdError + 'static)> = Some(&error);
    let mut found = false;
    while let Some(error) = source {
        found |= error
            .downcast_ref::<sqlx::Error>()
            .is_some_and(|e| matches!(e, sqlx::Error::Database(d) if d.code().as_deref() == Some("53300")));
        source = error.source();
    }
    assert!(found);
}

#[test]
fn a_failed_connect_says_whether_trying_again_can_help() {
    use AcquireFailure as F;
    for (error, failure, transient) in [
        (said("53300"), F::TooManyConnections, true),
        (said("57P03"), F::Down, true),
        (said("28P01"), F::Refused, false),
        (said("28000"), F::Refused, false),
        (said("3D000"), F::Refused, false),
        (said("42501"), F::Refused, false),
        (reset(), F::Down, true),
        (sqlx::Error::Tls("odd".into()), F::Refused, false),
        (sqlx::Error::PoolTimedOut, F::Down, true),
    ] {
        let text = error.to_string();
        let found = ConnectFailure::new(error);
        assert_eq!((found.failure, found.is_transient()), (failure, transient), "{text}");
    }
}

#[test]
fn the_text_of_a_failed_acquire_names_what_explains_it() {
    let text = exhausted(AcquireFailure::TimedOut).to_string();
    for part in [
        "5ms",
        "exhausted",
        "3 of 4 connections open",
        "5 callers waiting",
        "an unnamed caller for 2.0s",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Holders explain nothing when the server is down.
    let text = exhausted(AcquireFailure::Down).to_string();
    assert!(text.contains("down") && !text.contains("unnamed"), "{text}");
}
