//! Sessions that hold on to something, and standbys.

use super::Visit;
use crate::{AdvisorError, Area, Finding, Severity};

/// A transaction in two phases that nobody finishes.
const PREPARED: &str = "10 minutes";
/// A standby further behind is told; bytes.
const BEHIND: i64 = 256 << 20;

pub(super) async fn leaks(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let limit = visit.options.idle_in_transaction.as_secs_f64();
    type Row = (i32, Option<String>, Option<String>, f64, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT a.pid, a.usename::text, a.application_name, extract(epoch FROM clock_timestamp() - a.state_change)::float8, \
                (SELECT count(*) FROM pg_locks AS l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation') \
         FROM pg_stat_activity AS a WHERE a.state LIKE 'idle in transaction%' AND a.datname = current_database() \
           AND a.pid <> pg_backend_pid() AND clock_timestamp() - a.state_change > make_interval(secs => $1)",
    )
    .bind(limit)
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (pid, user, application, idle, locks) in rows {
        visit.found(
            Finding::new(
                Area::Leaks,
                Severity::Warning,
                "idle-in-transaction",
                format!("pid {pid}"),
            )
            .title("a session idles inside a transaction: its locks stay, and vacuum can't clean up behind it")
            .evidence(format!(
                "pid {pid}, user {}, application {:?}, idle for {idle:.0} s, {locks} tables locked",
                user.unwrap_or_default(),
                application.unwrap_or_default()
            ))
            .fix(
                "find who holds it (db-stack: leak.mode and db.holders()); set idle_in_transaction_session_timeout \
                     for the role; SELECT pg_terminate_backend(pid) ends it",
            ),
        );
    }
    let hidden: i64 = sqlx::query_scalar(
        // Of a session that may not be seen the kind is hidden as well; only a client's has a database.
        "SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND query = '<insufficient privilege>'",
    )
    .fetch_one(&mut visit.looking.pg)
    .await?;
    if hidden > 0 {
        visit.unseen.push(format!(
            "sessions: {hidden} of other roles are hidden; grant pg_monitor"
        ));
    }
    let waiting: Vec<(i32, f64, Vec<i32>)> = sqlx::query_as(
        "SELECT pid, extract(epoch FROM clock_timestamp() - state_change)::float8, pg_blocking_pids(pid) \
         FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() \
           AND clock_timestamp() - state_change > interval '10 seconds'",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (pid, waited, blockers) in waiting {
        visit.found(
            Finding::new(Area::Leaks, Severity::Warning, "blocked", format!("pid {pid}"))
                .title("a session has been waiting for a lock for a long time")
                .evidence(format!("pid {pid} for {waited:.0} s, blocked by {blockers:?}"))
                .fix("set lock_timeout for the role; end the blocker, or find out why it takes so long"),
        );
    }
    Ok(())
}

pub(super) async fn prepared(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT gid, prepared::text FROM pg_prepared_xacts WHERE database = current_database() \
         AND prepared < now() - $1::text::interval",
    )
    .bind(PREPARED)
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (gid, since) in rows {
        visit.found(
            Finding::new(Area::Leaks, Severity::Critical, "prepared-transaction", &gid)
                .title("a prepared transaction was never finished: it holds its locks through restarts")
                .evidence(format!("since {since}"))
                .fix("COMMIT PREPARED or ROLLBACK PREPARED it, whichever its transaction manager says"),
        );
    }
    Ok(())
}

pub(super) async fn replication(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(&mut visit.looking.pg)
        .await?;
    if standby {
        let behind: Option<f64> = sqlx::query_scalar(
            "SELECT CASE WHEN pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn() \
                    THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 END",
        )
        .fetch_one(&mut visit.looking.pg)
        .await?;
        if let Some(behind) = behind.filter(|behind| *behind > 30.0) {
            visit.found(
                Finding::new(Area::Replication, Severity::Warning, "replay-lag", "this standby")
                    .title("this standby is behind: reads here are old")
                    .evidence(format!("{behind:.0} s"))
                    .fix("look for long queries here (max_standby_streaming_delay) and for a slow disk"),
            );
        }
        return Ok(());
    }
    let rows: Vec<(String, Option<i64>, Option<f64>)> = sqlx::query_as(
        "SELECT coalesce(nullif(application_name, ''), client_addr::text, 'a standby'), \
                pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, extract(epoch FROM replay_lag)::float8 \
         FROM pg_stat_replication",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (name, bytes, seconds) in rows {
        match bytes {
            None => visit.unseen.push(format!(
                "replication: the position of {name} is hidden; grant pg_monitor"
            )),
            Some(bytes) if bytes > BEHIND || seconds.is_some_and(|s| s > 30.0) => visit.found(
                Finding::new(Area::Replication, Severity::Warning, "replay-lag", &name)
                    .title(format!("{name} is behind: reads there are old"))
                    .evidence(format!("{} MiB, {:.0} s", bytes >> 20, seconds.unwrap_or(0.0)))
                    .fix("look for long queries on it, a slow disk or network; db-replica keeps reads off it"),
            ),
            Some(_) => {}
        }
    }
    let slots: Vec<(String, i64)> = sqlx::query_as(
        "SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint \
         FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (slot, bytes) in slots {
        let severity = if bytes > 4 * BEHIND {
            Severity::Critical
        } else {
            Severity::Warning
        };
        if bytes > BEHIND {
            visit.found(
                Finding::new(Area::Replication, severity, "idle-slot", &slot)
                    .title(format!(
                        "nobody reads the replication slot {slot}: the log is kept until the disk is full"
                    ))
                    .evidence(format!("{} MiB kept", bytes >> 20))
                    .fix(format!(
                        "bring its standby back, or SELECT pg_drop_replication_slot('{slot}')"
                    )),
            );
        }
    }
    Ok(())
}
