//! What the server is doing at this moment: sessions, waits and statements.

use crate::{AdvisorError, Looking, Workload};

/// One session that is doing something.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// Its process.
    pub pid: i32,
    /// Who.
    pub user: String,
    /// The client's own name.
    pub application: String,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// What it waits for, or empty.
    pub wait: String,
    /// Seconds in that state.
    pub seconds: f64,
    /// Who blocks it.
    pub blocked_by: Vec<i32>,
    /// Its statement, in one line.
    pub query: String,
}

/// The server at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// Sessions by state: active, idle in transaction, idle.
    pub counts: [i64; 3],
    /// Sessions that are busy or hold a transaction, the longest first; at most 50.
    pub active: Vec<Active>,
    /// The workload so far, where the server keeps it.
    pub workload: Option<Workload>,
}

impl Moment {
    /// Looks once.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn look(looking: &mut Looking) -> Result<Self, AdvisorError> {
        type Row = (
            i32,
            Option<String>,
            Option<String>,
            String,
            Option<String>,
            Option<f64>,
            Vec<i32>,
            Option<String>,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT pid, usename::text, application_name, state, \
                    nullif(concat_ws(': ', wait_event_type, wait_event), ''), \
                    extract(epoch FROM clock_timestamp() - state_change)::float8, \
                    CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid) ELSE '{}' END, left(query, 500) \
             FROM pg_stat_activity WHERE state IN ('active', 'idle in transaction', 'idle in transaction (aborted)', \
             'fastpath function call') AND pid <> pg_backend_pid() AND datname = current_database() \
             ORDER BY state_change LIMIT 50",
        )
        .fetch_all(&mut looking.pg)
        .await?;
        let counts: (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state LIKE 'idle in%'), \
             count(*) FILTER (WHERE state = 'idle') FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut looking.pg)
        .await?;
        let line = |text: Option<String>| {
            let text = text.unwrap_or_default();
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            line.chars().filter(|c| !c.is_control()).collect::<String>()
        };
        let active = rows
            .into_iter()
            .map(
                |(pid, user, application, state, wait, seconds, blocked_by, query)| Active {
                    pid,
                    user: line(user),
                    application: line(application),
                    state,
                    wait: wait.unwrap_or_default(),
                    seconds: seconds.unwrap_or(0.0),
                    blocked_by,
                    query: line(query),
                },
            )
            .collect();
        Ok(Self {
            counts: [counts.0, counts.1, counts.2],
            active,
            workload: Workload::read(looking).await?.ok(),
        })
    }
}
