//! What an error says about the endpoint.

use db_core::{AcquireError, AcquireFailure, BreakerCause, Error, Sent, SqlState, SqlStateClass};

/// What the end of a call says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It answered; with what is the caller's business.
    Answered,
    /// It is in trouble.
    Failed(BreakerCause),
    /// Nothing: the call was shed, or its caller left.
    Unknown,
}

impl Outcome {
    /// The table. SQLSTATE classes 08, 53 and 58, 57P0x, 25006, connect errors and timeouts count; a statement that the
    /// server refused (22, 23, 40, 42) is an answer; a call that waited in vain for a busy pool says nothing.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Server(server) => Self::of_state(server.state()),
            Error::Network { sent: Sent::No, .. } => Self::Failed(BreakerCause::Connect),
            Error::Network { sent: Sent::Maybe, .. } => Self::Failed(BreakerCause::ConnectionLost),
            Error::Acquire(acquire) => Self::of_acquire(acquire),
            Error::Timeout(timeout) if timeout.sent == Sent::Maybe => Self::Failed(BreakerCause::Timeout),
            Error::CommitUnknown { source } => Self::of(source),
            // sqlx's own pool says so for everything, a busy pool as well as a dead server.
            Error::Client(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => Self::Unknown,
            Error::Client(sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::Answered
            }
            _ => Self::Unknown,
        }
    }

    /// The same for a SQLSTATE.
    pub fn of_state(state: SqlState) -> Self {
        if !state.counts_against_breaker() {
            return match state {
                // Cancelled: whoever did it, it is no answer.
                SqlState::QueryCanceled => Self::Unknown,
                state if state.class() == SqlStateClass::InternalError => Self::Unknown,
                _ => Self::Answered,
            };
        }
        Self::Failed(match state.class() {
            SqlStateClass::ConnectionException => BreakerCause::ConnectionLost,
            SqlStateClass::InsufficientResources => BreakerCause::Overload,
            SqlStateClass::SystemError => BreakerCause::System,
            _ if state.is_wrong_node() => BreakerCause::WrongNode,
            _ => BreakerCause::Shutdown,
        })
    }

    fn of_acquire(acquire: &AcquireError) -> Self {
        match acquire.failure {
            AcquireFailure::Down | AcquireFailure::Refused => Self::Failed(BreakerCause::Connect),
            AcquireFailure::TooManyConnections => Self::Failed(BreakerCause::Overload),
            // Nothing was open, and no connection came about while the caller waited.
            AcquireFailure::TimedOut | AcquireFailure::Shed(_) if acquire.size == 0 => {
                Self::Failed(BreakerCause::Connect)
            }
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::{LimitOrigin, QueryClass, TimeoutError};
    use std::time::Duration;

    fn of_code(code: &str) -> Outcome {
        Outcome::of_state(SqlState::from_code(code))
    }

    #[test]
    fn the_servers_trouble_counts_and_the_statements_does_not() {
        use BreakerCause as C;
        for (codes, cause) in [
            (&["08000", "08003", "08006", "08P01"][..], C::ConnectionLost),
            (&["53000", "53100", "53200", "53300"], C::Overload),
            (&["57P01", "57P02", "57P03"], C::Shutdown),
            (&["58000", "58030"], C::System),
            (&["25006"], C::WrongNode),
        ] {
            for code in codes {
                assert_eq!(of_code(code), Outcome::Failed(cause), "{code}");
            }
        }
        for code in [
            "22P02", "22012", "23505", "23503", "42601", "42P01", "40001", "40P01", "25P02", "55P03", "0A000", "P0001",
        ] {
            assert_eq!(of_code(code), Outcome::Answered, "{code}");
        }
        for code in ["57014", "XX000"] {
            assert_eq!(of_code(code), Outcome::Unknown, "{code}");
        }
    }

    #[test]
    fn a_busy_pool_says_nothing_and_a_pool_that_gets_no_connection_does() {
        let acquire = |failure, size| {
            let mut error = AcquireError::new(failure, Duration::ZERO);
            (error.size, error.max) = (size, 10);
            Outcome::of(&error.into())
        };
        assert_eq!(acquire(AcquireFailure::TimedOut, 10), Outcome::Unknown);
        assert_eq!(acquire(AcquireFailure::QueueFull, 10), Outcome::Unknown);
        assert_eq!(acquire(AcquireFailure::Closed, 0), Outcome::Unknown);
        let connect = Outcome::Failed(BreakerCause::Connect);
        assert_eq!(acquire(AcquireFailure::TimedOut, 0), connect);
        assert_eq!(acquire(AcquireFailure::Down, 0), connect);
    }

    #[test]
    fn a_timeout_counts_once_the_call_had_begun() {
        let limit = Duration::from_secs(1);
        let begun = TimeoutError::new(QueryClass::Fast, LimitOrigin::Class, limit, limit);
        assert_eq!(Outcome::of(&begun.into()), Outcome::Failed(BreakerCause::Timeout));
        let refused = TimeoutError::before_start(QueryClass::Fast, LimitOrigin::Deadline);
        assert_eq!(Outcome::of(&refused.into()), Outcome::Unknown);
        assert_eq!(Outcome::of(&sqlx::Error::RowNotFound.into()), Outcome::Answered);
    }
}
