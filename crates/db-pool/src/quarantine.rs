//! Making an abandoned lease clean: cancel, drain, verify, reset; or close it.

use crate::{conn::Conn, dial::watch_client, shared::Shared};
use db_core::{CloseReason, Event, LeaseOutcome, SharedSession};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, Either, Executor, PgConnection, Row, SqlSafeStr, SqlStr};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// How long a statement may take to end by itself that could not be cancelled.
const GRACE_IN_FLIGHT: Duration = Duration::from_millis(1);
/// The same before it is cancelled on a raw lease, which is most likely idle already.
const GRACE_RAW: Duration = Duration::from_millis(20);
/// How long the control path may take to signal the server.
const CANCEL: Duration = Duration::from_millis(250);
/// How long the server may take to answer once it has been signalled.
const SETTLE: Duration = Duration::from_millis(100);
/// A signal that overtakes its statement is lost: so many are sent.
const SIGNALS: u32 = 2;
/// Answers to earlier messages that one drain reads past.
const LATE_ANSWERS: u32 = 16;

/// One simple-protocol message: is a transaction open, and then back to the session as it was set up. Never
/// `DISCARD ALL` or `DEALLOCATE`, which would break sqlx's statement cache. Under the extended protocol the two
/// clocks differ outside a transaction too.
const RESET: &str = "SELECT now() <> statement_timestamp(), (SELECT string_agg(format('DEALLOCATE %I', name), '; ') \
    FROM pg_prepared_statements WHERE from_sql); RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; \
    CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// All of it that may be asked through a transaction pooler; its columns are those of [`RESET`].
const IN_TRANSACTION: &str = "SELECT now() <> statement_timestamp(), NULL::text";

/// How a lease was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// With work in flight.
    InFlight,
    /// Touched by somebody else's code.
    Unknown,
    /// Idle, having refused to write.
    WrongNode,
}

/// A connection in quarantine. Dropped before it has recovered, it leaves the pool.
pub(crate) struct Patient {
    conn: Option<Box<Conn>>,
    shared: Arc<Shared>,
}

impl Patient {
    pub(crate) fn new(shared: Arc<Shared>, conn: Box<Conn>) -> Self {
        Self {
            conn: Some(conn),
            shared,
        }
    }

    /// Back into the pool or out of it, within the pool's limit.
    pub(crate) async fn recover(mut self, left: Left) {
        let since = Instant::now();
        let limit = self.shared.config.load().quarantine_timeout;
        let recovered = match self.conn.as_mut() {
            Some(conn) => matches!(timeout(limit, clean(&self.shared, conn, left)).await, Ok(Ok(()))),
            None => return,
        };
        let outcome = if recovered {
            LeaseOutcome::Reused
        } else {
            LeaseOutcome::Closed
        };
        self.shared.observers.tell(|| Event::Quarantined {
            outcome,
            in_flight: left == Left::InFlight,
            took: since.elapsed(),
        });
        // Not recovered, it stays in here: dropping the patient closes it and puts the accounts right.
        if recovered && let Some(mut conn) = self.conn.take() {
            {
                let mut state = self.shared.state.lock();
                state.stats.quarantined -= 1;
                state.stats.cleaned += 1;
            }
            let now = Instant::now();
            conn.last_used = now;
            conn.guest.leave();
            self.shared.offer(conn, now);
        }
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            {
                let mut state = self.shared.state.lock();
                state.stats.quarantined -= 1;
                state.forget(&conn, CloseReason::Quarantine);
            }
            self.shared.part(conn, CloseReason::Quarantine);
            self.shared.demand.notify_one();
        }
    }
}

async fn clean(shared: &Shared, conn: &mut Conn, left: Left) -> sqlx::Result<()> {
    let stray = |session: &Arc<SharedSession>| !session.named_statements && conn.pg.cached_statements_size() > 0;
    if conn.backend.shared.as_ref().is_some_and(stray) {
        // Their names may be another client's on the next server: the pooler drops this one's with the connection.
        return Err(sqlx::Error::WorkerCrashed);
    }
    let busy = quiet(shared, conn, left == Left::InFlight).await?;
    let reset = reset_sql(shared, conn);
    for _ in 0..3 {
        match reset_session(&mut conn.pg, reset.clone()).await {
            Ok(Session { open: false, prepared }) => {
                if let Some(forget) = prepared {
                    conn.pg.execute(sqlx::raw_sql(AssertSqlSafe(forget))).await?;
                }
                if conn.pg.is_in_transaction() || (left == Left::WrongNode && is_standby(shared, conn).await?) {
                    return Err(sqlx::Error::WorkerCrashed);
                }
                return shared.plans.renew(conn).await;
            }
            // An open transaction took the reset with it: roll back, and reset again.
            Ok(Session { open: true, .. }) => roll_back(&mut conn.pg).await?,
            // A cancel that came late, or an aborted transaction.
            Err(sqlx::Error::Database(error))
                if (busy && error.code().as_deref() == Some("57014")) || error.code().as_deref() == Some("25P02") =>
            {
                roll_back(&mut conn.pg).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

/// A session may be read-only by its own wish; a server in recovery is not the one that we mean, and neither is where
/// the other connections lead: they are opened anew.
async fn is_standby(shared: &Shared, conn: &mut Conn) -> sqlx::Result<bool> {
    let row = conn.pg.fetch_one(sqlx::raw_sql("SELECT pg_is_in_recovery()")).await?;
    let standby = row.try_get(0)?;
    if standby {
        // Once for all that were opened together.
        shared.next_epoch_after(conn.epoch);
    }
    Ok(standby)
}

/// As [`quiet`], for a lease that stays with its holder.
pub(crate) async fn quiet_in_place(shared: &Shared, conn: &mut Conn, cancel: bool) -> sqlx::Result<()> {
    let limit = shared.config.load().quarantine_timeout;
    let quieted = timeout(limit, async {
        if cancel {
            quiet(shared, conn, true).await.map(drop)
        } else {
            drain(&mut conn.pg).await
        }
    });
    quieted.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Ends what is still going on; whether the server was signalled for it.
///
/// What was surely begun is cancelled before anything is read: reading never waits, and so minds no limit, for as long
/// as the server sends faster than we read. Where no signal can be sent, closing is safe too: the server ends the
/// statement on its own when it sees the socket go.
async fn quiet(shared: &Shared, conn: &mut Conn, in_flight: bool) -> sqlx::Result<bool> {
    if !in_flight && let Ok(drained) = timeout(GRACE_RAW, drain(&mut conn.pg)).await {
        return drained.map(|()| false);
    }
    // Behind a pooler no signal can be sent, and what is in flight is mostly a ROLLBACK of our own.
    let alone = if conn.backend.shared.is_some() {
        GRACE_RAW
    } else {
        GRACE_IN_FLIGHT
    };
    for _ in 0..SIGNALS {
        // Awaited: from here on the signal is at the backend, and everything read after the next round trip is ours.
        let Ok(signalled) = timeout(CANCEL, shared.control.cancel(&conn.backend)).await else {
            // It may still be sent, and would hit whoever has the connection by then.
            return Err(sqlx::Error::WorkerCrashed);
        };
        // A server that was told to stop and says nothing is dead or busy beyond interrupting.
        match timeout(if signalled { SETTLE } else { alone }, drain(&mut conn.pg)).await {
            Ok(drained) => {
                shared.state.lock().stats.cancelled += u64::from(signalled);
                return drained.map(|()| signalled);
            }
            Err(_) if signalled => {}
            Err(_) => break,
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

/// Reads until the server is ready for a statement of ours: every error on the way belongs to somebody else.
async fn drain(pg: &mut PgConnection) -> sqlx::Result<()> {
    for _ in 0..LATE_ANSWERS {
        match pg.ping().await {
            Ok(()) => return Ok(()),
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

async fn roll_back(pg: &mut PgConnection) -> sqlx::Result<()> {
    match pg.execute(sqlx::raw_sql("ROLLBACK")).await {
        Ok(_) | Err(sqlx::Error::Database(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn reset_sql(shared: &Shared, conn: &Conn) -> SqlStr {
    // The session is not ours: nothing was set, and resetting would hit somebody else.
    if conn.backend.shared.is_some() {
        return IN_TRANSACTION.into_sql_str();
    }
    // `RESET ALL` has undone both.
    let watch = watch_client(&shared.session.load(), "SET").filter(|_| conn.backend.watched);
    let hooked = shared.endpoint.load().hooked();
    match (watch.as_deref(), hooked.as_deref()) {
        (None, None) => RESET.into_sql_str(),
        (Some(again), None) | (None, Some(again)) => AssertSqlSafe(format!("{RESET}; {again}")).into_sql_str(),
        (Some(watch), Some(hooked)) => AssertSqlSafe(format!("{RESET}; {watch}; {hooked}")).into_sql_str(),
    }
}

/// What a reset has found.
struct Session {
    /// Whether a transaction was open.
    open: bool,
    /// The statements that forget what was prepared by `PREPARE`; the driver's own are not among them.
    prepared: Option<String>,
}

async fn reset_session(pg: &mut PgConnection, reset: SqlStr) -> sqlx::Result<Session> {
    let mut steps = pg.fetch_many(sqlx::raw_sql(reset));
    let mut session = None;
    while let Some(step) = steps.try_next().await? {
        if let (Either::Right(row), None) = (step, &session) {
            session = Some(Session {
                open: row.try_get(0)?,
                prepared: row.try_get(1)?,
            });
        }
    }
    session.ok_or(sqlx::Error::RowNotFound)
}
