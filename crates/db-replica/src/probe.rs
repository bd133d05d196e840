//! One look at a node, on a connection of its own.

use crate::trail::end_of_records;
use db_core::{CausalError, CausalToken, Error, Lsn, Result};
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};
use std::time::Duration;

/// Everything about a node in one trip. The simple protocol: nothing to prepare, nothing that a pooler could mix up.
///
/// * A role is what `pg_is_in_recovery()` says, asked once: `OFFSET 0` keeps the planner from asking again.
/// * The timeline in the control file's checkpoint is stale after a fast promotion, so a primary's is in the name of
///   its WAL file. A standby knows that of its last restart point and of what it receives: a stream of a timeline
///   begins behind its fork, so a standby that has replayed a position beyond is on that timeline.
/// * The insert position covers commits that were not waited for (`synchronous_commit = off`), too.
/// * After a promotion `pg_last_wal_replay_lsn()` stays where the new timeline was forked off, until a restart or crash;
///   a server that has received WAL since then has not been restarted.
/// * The server's own lag is zero when it has replayed all that it received: an idle primary sends nothing.
const LOOK: &str = "SELECT standby, \
    (SELECT system_identifier::text FROM pg_control_system()), \
    CASE WHEN standby THEN greatest( \
        (SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
        (SELECT timeline_id FROM pg_control_checkpoint()), \
        (SELECT received_tli FROM pg_stat_get_wal_receiver()))::int8 \
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8 END, \
    CASE WHEN standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text, \
    CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL THEN pg_last_wal_replay_lsn() END::text, \
    CASE WHEN standby AND pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn() \
        THEN greatest(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8 END, \
    current_setting('transaction_read_only')::bool \
    FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) AS role";

/// Only how far it is.
const GLANCE: &str = "SELECT standby, \
    CASE WHEN standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text \
    FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) AS role";

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// It follows a primary.
    pub(crate) standby: bool,
    /// It is no standby and takes no writes all the same: fenced by `default_transaction_read_only`.
    pub(crate) fenced: bool,
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    /// Replayed by a standby, written by a primary.
    pub(crate) lsn: Lsn,
    /// Where a primary's timeline began.
    pub(crate) fork: Option<Lsn>,
    /// What a standby says of its own lag.
    pub(crate) own_lag: Option<Duration>,
}

/// What a glance found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Glimpse {
    pub(crate) standby: bool,
    pub(crate) lsn: Lsn,
}

/// The reserved connection of one node.
#[derive(Default)]
pub(crate) struct Wire(Option<PgConnection>);

impl Wire {
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Looks at everything, over a new connection if there is none. Dropped half-way, the connection is gone.
    pub(crate) async fn look(&mut self, options: &PgConnectOptions) -> sqlx::Result<Found> {
        let mut pg = match self.0.take() {
            Some(pg) => pg,
            None => dial(options).await?,
        };
        let found = found(&one_row(&mut pg, LOOK).await?)?;
        self.0 = Some(pg);
        Ok(found)
    }

    /// Looks at the position only; `None` when there is no connection.
    pub(crate) async fn glance(&mut self) -> sqlx::Result<Option<Glimpse>> {
        let Some(mut pg) = self.0.take() else {
            return Ok(None);
        };
        let row = one_row(&mut pg, GLANCE).await?;
        self.0 = Some(pg);
        let standby = row.try_get(0)?;
        let lsn = position(&row, 1)?.unwrap_or_default();
        Ok(Some(Glimpse {
            standby,
            lsn: if standby { lsn } else { end_of_records(lsn) },
        }))
    }
}

async fn dial(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let options = options.clone().disable_statement_logging();
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("db-replica"),
    };
    options.connect().await
}

async fn one_row(pg: &mut PgConnection, sql: &'static str) -> sqlx::Result<PgRow> {
    sqlx::raw_sql(sql).fetch_one(pg).await
}

fn found(row: &PgRow) -> sqlx::Result<Found> {
    let standby: bool = row.try_get(0)?;
    let system: String = row.try_get(1)?;
    let timeline: Option<i64> = row.try_get(2)?;
    let lsn = position(row, 3)?.unwrap_or_default();
    let own_lag: Option<f64> = row.try_get(5)?;
    let read_only: bool = row.try_get(6)?;
    Ok(Found {
        standby,
        fenced: !standby && read_only,
        system: system.parse().unwrap_or_default(),
        timeline: timeline
            .and_then(|timeline| u32::try_from(timeline).ok())
            .unwrap_or_default(),
        lsn: if standby { lsn } else { end_of_records(lsn) },
        fork: position(row, 4)?.filter(|_| !standby),
        own_lag: own_lag.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
    })
}

fn position(row: &PgRow, column: usize) -> sqlx::Result<Option<Lsn>> {
    let text: Option<String> = row.try_get(column)?;
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|error: CausalError| sqlx::Error::Decode(error.into()))
}

/// The position of the primary that this connection leads to: it covers everything that was committed before. For
/// services without replicas that hand tokens to some with replicas.
///
/// # Errors
/// [`CausalError::NoPosition`] on a standby; the server's and the connection's.
pub async fn position_of(pg: &mut PgConnection) -> Result<CausalToken> {
    let found = found(&one_row(pg, LOOK).await?)?;
    if found.standby {
        return Err(Error::Causal(CausalError::NoPosition));
    }
    Ok(CausalToken {
        system: found.system,
        timeline: found.timeline,
        lsn: found.lsn,
    })
}

/// Says goodbye, where there is time for it.
impl Drop for Wire {
    fn drop(&mut self) {
        if let (Some(pg), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(Duration::from_secs(1), pg.close()));
        }
    }
}
