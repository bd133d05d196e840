//! The checks that ask the server, each in a read-only transaction of its own with a time limit on the server.
//!
//! Simple protocol throughout: it prepares nothing and leaves nothing behind, so it works through PgBouncer as well.

use crate::health::{
    config::{FAILSAFE_AGE, HealthConfig},
    detail::Detail,
    report::{Finding, show},
};
use db_core::SqlState;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row, postgres::PgRow};
use std::{collections::BTreeMap, time::Duration};

type Answer = sqlx::Result<Finding>;

/// What the first check has found out for the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) standby: bool,
}

/// Asks within `limit` and leaves the connection idle, unless it is broken.
async fn ask(pg: &mut PgConnection, limit: Duration, sql: impl Into<String>) -> sqlx::Result<Vec<PgRow>> {
    let limit = limit.as_millis().max(1);
    let begin =
        format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{limit}ms'; SET LOCAL lock_timeout = '{limit}ms'");
    pg.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await?;
    let rows = pg.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.into()))).await;
    if matches!(rows, Ok(_) | Err(sqlx::Error::Database(_))) {
        pg.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    rows
}

async fn ask_one(pg: &mut PgConnection, limit: Duration, sql: impl Into<String>) -> sqlx::Result<PgRow> {
    ask(pg, limit, sql).await?.pop().ok_or(sqlx::Error::RowNotFound)
}

pub(crate) async fn connectivity(pg: &mut PgConnection, limit: Duration) -> sqlx::Result<(Server, Finding)> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int";
    let row = ask_one(pg, limit, sql).await?;
    let (standby, version) = (row.try_get(0)?, row.try_get(1)?);
    let finding = Finding::healthy(if standby {
        "a standby answers"
    } else {
        "a primary answers"
    });
    Ok((
        Server { standby },
        finding.with(Detail::Connectivity { standby, version }),
    ))
}

/// Really begins, writes and rolls back; on a standby it begins, reads and rolls back.
pub(crate) async fn transaction(pg: &mut PgConnection, server: Server, limit: Duration) -> Answer {
    let detail = Detail::Transaction {
        read_only: server.standby,
    };
    if server.standby {
        ask_one(pg, limit, "SELECT 1").await?;
        return Ok(Finding::healthy("begun, read and rolled back").with(detail));
    }
    let ms = limit.as_millis().max(1);
    let write = format!(
        "BEGIN; SET LOCAL statement_timeout = '{ms}ms'; CREATE TEMP TABLE db_stack_health (n int) ON COMMIT DROP; \
         INSERT INTO db_stack_health VALUES (1)"
    );
    let written = pg.execute(sqlx::raw_sql(AssertSqlSafe(write))).await;
    if matches!(written, Ok(_) | Err(sqlx::Error::Database(_))) {
        pg.execute(sqlx::raw_sql("ROLLBACK")).await?;
    }
    let finding = match written {
        Ok(_) => Finding::healthy("begun, written and rolled back"),
        Err(sqlx::Error::Database(error)) => match SqlState::from_code(error.code().as_deref().unwrap_or_default()) {
            SqlState::InsufficientPrivilege => Finding::unknown("no right to make a temporary table"),
            SqlState::ReadOnlyTransaction => Finding::unhealthy("the server takes no writes"),
            state => Finding::unhealthy(format!("can't write: SQLSTATE {state}")),
        },
        Err(error) => return Err(error),
    };
    Ok(finding.with(detail))
}

/// Whether each table can be read: one row of it, never all.
pub(crate) async fn tables(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    let names = config.critical_tables.names();
    let each = limit / u32::try_from(names.len().max(1)).unwrap_or(u32::MAX);
    let (mut readable, mut unreadable) = (0, BTreeMap::new());
    for name in names {
        match ask(pg, each, format!("SELECT 1 FROM {} LIMIT 1", quoted(name))).await {
            Ok(_) => readable += 1,
            Err(sqlx::Error::Database(error)) => {
                let state = SqlState::from_code(error.code().as_deref().unwrap_or_default());
                let why = match state {
                    SqlState::UndefinedTable | SqlState::InvalidSchema => "does not exist".to_owned(),
                    SqlState::InsufficientPrivilege => "no right to read it".to_owned(),
                    SqlState::LockNotAvailable | SqlState::QueryCanceled => format!("no answer within {}", show(each)),
                    state => format!("SQLSTATE {state}"),
                };
                unreadable.insert(name.clone(), why);
            }
            Err(error) => return Err(error),
        }
    }
    let finding = match unreadable.first_key_value() {
        None if names.is_empty() => Finding::healthy("none are named"),
        None => Finding::healthy(format!("{readable} readable")),
        Some((name, why)) => Finding::unhealthy(format!("{name}: {why}")),
    };
    Ok(finding.with(Detail::Tables { readable, unreadable }))
}

/// How far a standby is behind; on a primary, how far its standbys are.
pub(crate) async fn replication(
    pg: &mut PgConnection,
    server: Server,
    config: &HealthConfig,
    limit: Duration,
) -> Answer {
    if server.standby {
        standby(pg, config, limit).await
    } else {
        primary(pg, config, limit).await
    }
}

async fn standby(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    // Everything received and replayed: no lag, however old the last transaction is.
    let sql = "SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
               ELSE coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 0) END::float8, \
               EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL)";
    let row = ask_one(pg, limit, sql).await?;
    let (lag, streaming): (f64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let behind = Duration::try_from_secs_f64(lag).unwrap_or_default();
    let finding = if behind >= config.lag {
        Finding::degraded(format!("{} behind", show(behind)))
    } else if !streaming {
        Finding::degraded("it does not receive: how far it is behind is not known")
    } else {
        Finding::healthy(format!("{} behind", show(behind)))
    };
    Ok(finding.with(Detail::Standby { lag, streaming }))
}

async fn primary(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    let sql = "SELECT count(*), count(*) FILTER (WHERE sent_lsn IS NULL), \
               max(extract(epoch FROM replay_lag))::float8, \
               max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint FROM pg_stat_replication";
    let row = ask_one(pg, limit, sql).await?;
    let (standbys, hidden): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (lag, bytes): (Option<f64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
    let behind = lag.and_then(|lag| Duration::try_from_secs_f64(lag).ok());
    let finding = match behind {
        _ if standbys == 0 => Finding::healthy("no standbys"),
        _ if hidden > 0 => Finding::unknown("no right to see how far the standbys are: that takes pg_monitor"),
        Some(behind) if behind >= config.lag => Finding::degraded(format!("a standby is {} behind", show(behind))),
        _ => Finding::healthy(format!("{standbys} standbys follow")),
    };
    Ok(finding.with(Detail::Primary { standbys, lag, bytes }))
}

/// How far the oldest transaction id is from the end of the road.
pub(crate) async fn transaction_ids(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    let sql = "SELECT max(age(datfrozenxid))::bigint FROM pg_database";
    let age: i64 = ask_one(pg, limit, sql).await?.try_get(0)?;
    let old = u64::try_from(age).unwrap_or_default();
    let finding = if old >= FAILSAFE_AGE {
        Finding::unhealthy(format!(
            "the oldest is {age} old: the server will soon stop to take writes; vacuum"
        ))
    } else if old >= config.xid_age {
        Finding::degraded(format!("the oldest is {age} old: autovacuum does not keep up"))
    } else {
        Finding::healthy(format!("the oldest is {age} old"))
    };
    Ok(finding.with(Detail::TransactionIds { age }))
}

/// The longest open transaction of any client, as far as our rights let us see.
pub(crate) async fn longest_transaction(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    let sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 \
               FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let open: f64 = ask_one(pg, limit, sql).await?.try_get(0)?;
    let time = Duration::try_from_secs_f64(open).unwrap_or_default();
    let finding = if time >= config.transaction {
        Finding::degraded(format!("one has been open for {}", show(time)))
    } else {
        Finding::healthy(format!("the longest has been open for {}", show(time)))
    };
    Ok(finding.with(Detail::LongestTransaction { open }))
}

/// The server's connections, from statistics that every role may read.
pub(crate) async fn connections(pg: &mut PgConnection, config: &HealthConfig, limit: Duration) -> Answer {
    let sql = "SELECT coalesce(sum(numbackends), 0)::bigint, \
               current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
               FROM pg_stat_database";
    let row = ask_one(pg, limit, sql).await?;
    let (used, max): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let finding = if used >= max {
        Finding::unhealthy(format!("{used} of {max}: no more are taken"))
    } else if used as f64 >= config.connections * max as f64 {
        Finding::degraded(format!("{used} of {max}"))
    } else {
        Finding::healthy(format!("{used} of {max}"))
    };
    Ok(finding.with(Detail::Connections { used, max }))
}

/// Whether there are statistics of statements to draw conclusions from. Not having them is no illness.
pub(crate) async fn statements(pg: &mut PgConnection, limit: Duration) -> Answer {
    match ask(pg, limit, "SELECT calls FROM pg_stat_statements LIMIT 1").await {
        Ok(_) => Ok(Finding::healthy("pg_stat_statements can be read")),
        Err(sqlx::Error::Database(error)) => {
            Ok(match SqlState::from_code(error.code().as_deref().unwrap_or_default()) {
                SqlState::UndefinedTable => Finding::unknown("pg_stat_statements is not installed in this database"),
                SqlState::InsufficientPrivilege => Finding::unknown("no right to read pg_stat_statements"),
                SqlState::ObjectNotInState => Finding::unknown("pg_stat_statements is not in shared_preload_libraries"),
                state => Finding::unknown(format!("pg_stat_statements: SQLSTATE {state}")),
            })
        }
        Err(error) => Err(error),
    }
}

/// `schema.table` as identifiers.
fn quoted(name: &str) -> String {
    let parts: Vec<_> = name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("orders"), "\"orders\"");
        assert_eq!(quoted("audit.x\"; DROP TABLE y"), "\"audit\".\"x\"\"; DROP TABLE y\"");
    }
}
