//! The state of every connection, the accounts and the server after the callers have gone.

use std::time::Duration;

use anyhow::Context;
use db_stack::{Db, PoolStats};
use db_testkit::Postgres;
use futures::future::join_all;
use sqlx::{Executor, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::prove::{findings::Findings, rig::APPLICATION};

/// How long the pool may take to clean up what was dropped last.
const QUIET: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// What a session may hold that its next user would feel. One simple-protocol message, so that an open transaction
/// shows in its clocks.
const INSPECT: &str = "SELECT now() <> statement_timestamp(), \
    (SELECT string_agg(name, ',') FROM pg_settings WHERE source = 'session' \
        AND name NOT IN ('client_connection_check_interval')), \
    current_setting('work_mem') || ' ' || current_setting('application_name'), \
    (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_cursors) \
        + (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') \
        + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())";

pub(crate) async fn check(db: &Db, server: &Postgres, max: u32, findings: &mut Findings) -> anyhow::Result<()> {
    let quiet = settle(db).await;
    findings.expect("busy in the accounts", busy(&quiet), 0, at_rest(&quiet));
    let mut admin = server.admin().await?;
    let (open, sessions) = sessions(&mut admin, quiet.size).await?;
    findings.expect("sessions in a transaction", open, 0, open == 0);
    // The pool's own, the one that cancels, and at most one each of the health monitor and the slow-query log.
    let least = i64::from(quiet.size) + 1;
    let expected = least..=least + 2;
    findings.expect(
        "sessions on the server",
        sessions,
        format!("{expected:?}"),
        expected.contains(&sessions),
    );

    let all = join_all((0..max).map(|_| timeout(QUIET, db.acquire()))).await;
    let mut leases: Vec<_> = all.into_iter().filter_map(|lease| lease.ok()?.ok()).collect();
    let leased = db.stats();
    findings.expect(
        "leases at once",
        leases.len(),
        max,
        leases.len() == max as usize && leased.in_use == max && leased.size == max,
    );
    let mut dirty = 0;
    for lease in &mut leases {
        if let Some(dirt) = inspect(lease).await? {
            println!("  dirty: {dirt}");
            dirty += 1;
        }
    }
    findings.expect("dirty connections", dirty, 0, dirty == 0);
    drop(leases);
    let quiet = settle(db).await;
    findings.expect(
        "idle in the accounts",
        quiet.idle,
        max,
        at_rest(&quiet) && quiet.idle == max,
    );
    Ok(())
}

pub(crate) async fn inspect(lease: &mut PgConnection) -> anyhow::Result<Option<String>> {
    let row = timeout(QUIET, lease.fetch_one(sqlx::raw_sql(INSPECT)))
        .await
        .context("a lease does not answer")??;
    let inside: bool = row.try_get(0)?;
    let changed: Option<String> = row.try_get(1)?;
    let settings: String = row.try_get(2)?;
    let held: i64 = row.try_get(3)?;
    let clean = !inside && changed.is_none() && settings == format!("4MB {APPLICATION}") && held == 0;
    Ok((!clean).then(|| format!("in a transaction {inside}, changed {changed:?}, {settings}, {held} things held")))
}

/// Sessions inside a transaction, and all sessions; closed ones may take a moment to leave.
async fn sessions(admin: &mut PgConnection, size: u32) -> anyhow::Result<(i64, i64)> {
    let since = Instant::now();
    loop {
        let counted: (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%' OR state = 'active'), count(*) \
             FROM pg_stat_activity WHERE application_name IN ($1, 'leaked')",
        )
        .bind(APPLICATION)
        .fetch_one(&mut *admin)
        .await?;
        if counted == (0, i64::from(size) + 1) || since.elapsed() > QUIET {
            return Ok(counted);
        }
        sleep(POLL).await;
    }
}

/// The figures once nothing is in use any more, or after the limit.
async fn settle(db: &Db) -> PoolStats {
    let since = Instant::now();
    loop {
        let stats = db.stats();
        if at_rest(&stats) {
            return stats;
        }
        if since.elapsed() > QUIET {
            println!("  never at rest: {stats:?}");
            return stats;
        }
        sleep(POLL).await;
    }
}

fn at_rest(stats: &PoolStats) -> bool {
    busy(stats) == 0 && stats.size == stats.idle
}

/// Connections and callers that are anything but idle.
fn busy(stats: &PoolStats) -> u32 {
    stats.in_use + stats.quarantined + stats.dialing + stats.lent + stats.waiting
}
