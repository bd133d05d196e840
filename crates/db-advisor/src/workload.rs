//! What the server has done, from `pg_stat_statements`: PostgreSQL 13 to 18.

use crate::{AdvisorError, Looking};
use db_core::{Fingerprint, StatementFacts};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Row};
use std::collections::{BTreeMap, HashMap};

/// Statements that are read, those with the most time first.
const STATEMENTS: i64 = 500;

/// One statement's figures since the last reset, or between two snapshots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatementLoad {
    /// The server's number for it.
    pub query_id: i64,
    /// Its text, constants as `$n`.
    pub query: String,
    /// How often it ran.
    pub calls: i64,
    /// Time in it, milliseconds.
    pub total_ms: f64,
    /// Per call, milliseconds.
    pub mean_ms: f64,
    /// The spread, milliseconds; of a difference, that of the later snapshot.
    pub stddev_ms: f64,
    /// The longest, milliseconds; of a difference, that of the later snapshot.
    pub max_ms: f64,
    /// Rows that it returned or changed.
    pub rows: i64,
    /// Pages found in shared buffers.
    pub hits: i64,
    /// Pages read from outside them.
    pub reads: i64,
    /// Pages written to temporary files.
    pub temp_written: i64,
    /// Its share of all the time, 0 to 1.
    pub share: f64,
}

impl StatementLoad {
    /// The client's name for the same statement.
    pub fn fingerprint(&self) -> Fingerprint {
        StatementFacts::of(&self.query).fingerprint()
    }

    /// Rows per call.
    pub fn rows_per_call(&self) -> f64 {
        self.rows as f64 / self.calls.max(1) as f64
    }

    /// The text in one line, at most `limit` characters.
    pub fn short(&self, limit: usize) -> String {
        let line = self.query.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(limit) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    }
}

/// All statements at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// When, seconds since 1970.
    pub at: f64,
    /// When the figures were last reset, seconds since 1970; 0 when the server does not say.
    pub since: f64,
    /// Statements that the server has thrown away for want of room (`pg_stat_statements.max`).
    pub forgotten: i64,
    /// Statements of other roles, which the server does not show to this one.
    #[serde(default)]
    pub hidden: i64,
    /// Those with the most time first.
    pub statements: Vec<StatementLoad>,
}

/// Why there is no workload to see, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoWorkload(pub String);

/// How the client itself saw a statement: `Db::statements()` of the stack knows these.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientLoad {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Calls.
    pub calls: u64,
    /// Mean duration with waiting and the network, milliseconds.
    pub mean_ms: f64,
}

impl ClientLoad {
    /// Reads the figures of `Db::statements()`: the whole, or its list of statements. Those that were never timed are
    /// left out.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn from_json(text: &str) -> Result<Vec<Self>, AdvisorError> {
        #[derive(Deserialize)]
        struct One {
            fingerprint: String,
            uses: u64,
            mean_ms: Option<f64>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Figures {
            Whole { statements: Vec<One> },
            List(Vec<One>),
        }
        let (Figures::Whole { statements } | Figures::List(statements)) =
            serde_json::from_str(text).map_err(AdvisorError::Client)?;
        let timed = statements.into_iter().filter_map(|one| Some((one.mean_ms?, one)));
        timed
            .map(|(mean_ms, one)| {
                Ok(Self {
                    fingerprint: one.fingerprint.parse().map_err(|_| {
                        AdvisorError::Client(serde::de::Error::custom("a fingerprint is 16 hexadecimal digits"))
                    })?,
                    calls: one.uses,
                    mean_ms,
                })
            })
            .collect()
    }
}

/// One statement from both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct BothSides<'a> {
    /// The server's figures.
    pub server: &'a StatementLoad,
    /// The client's.
    pub client: &'a ClientLoad,
    /// Of the client's mean, what the server did not spend: waiting for a lease, retries, the network.
    pub outside_ms: f64,
}

impl Workload {
    /// Reads it. The inner error says how to enable what is missing.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read(looking: &mut Looking) -> Result<Result<Self, NoWorkload>, AdvisorError> {
        let schema: Option<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace \
             WHERE e.extname = 'pg_stat_statements'",
        )
        .fetch_optional(&mut looking.pg)
        .await?;
        let Some(schema) = schema else {
            return Ok(Err(NoWorkload(
                "pg_stat_statements is not installed in this database: add it to shared_preload_libraries, restart, \
                 then CREATE EXTENSION pg_stat_statements"
                    .to_owned(),
            )));
        };
        if looking.version < 130_000 {
            return Ok(Err(NoWorkload(
                "pg_stat_statements before PostgreSQL 13 has other columns".to_owned(),
            )));
        }
        let schema = format!("\"{}\"", schema.replace('"', "\"\""));
        let info = if looking.version >= 140_000 {
            format!("SELECT dealloc, extract(epoch FROM stats_reset)::float8 FROM {schema}.pg_stat_statements_info")
        } else {
            "SELECT 0::bigint, 0::float8".to_owned()
        };
        let sql = format!(
            "SELECT queryid, query, calls, total_exec_time, mean_exec_time, stddev_exec_time, max_exec_time, rows, \
                    shared_blks_hit, shared_blks_read, temp_blks_written, \
                    (total_exec_time / nullif(sum(total_exec_time) OVER (), 0))::float8 AS share \
             FROM {schema}.pg_stat_statements \
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL \
             ORDER BY total_exec_time DESC LIMIT {STATEMENTS}"
        );
        let hidden = format!(
            "SELECT count(*) FROM {schema}.pg_stat_statements WHERE queryid IS NULL \
             AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        let rows = match sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut looking.pg).await {
            Ok(rows) => rows,
            // Installed, but not loaded by the server (55000), or not for this role (42501).
            Err(sqlx::Error::Database(error)) => {
                return Ok(Err(NoWorkload(format!(
                    "pg_stat_statements can't be read: {}",
                    error.message()
                ))));
            }
            Err(error) => return Err(error.into()),
        };
        let (forgotten, since): (i64, f64) = sqlx::query_as(AssertSqlSafe(info)).fetch_one(&mut looking.pg).await?;
        let hidden: i64 = sqlx::query_scalar(AssertSqlSafe(hidden))
            .fetch_one(&mut looking.pg)
            .await?;
        let at: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
            .fetch_one(&mut looking.pg)
            .await?;
        let mut by_id: BTreeMap<i64, StatementLoad> = BTreeMap::new();
        for row in rows {
            let one = StatementLoad {
                query_id: row.try_get(0)?,
                query: row.try_get::<Option<String>, _>(1)?.unwrap_or_default(),
                calls: row.try_get(2)?,
                total_ms: row.try_get(3)?,
                mean_ms: row.try_get(4)?,
                stddev_ms: row.try_get(5)?,
                max_ms: row.try_get(6)?,
                rows: row.try_get(7)?,
                hits: row.try_get(8)?,
                reads: row.try_get(9)?,
                temp_written: row.try_get(10)?,
                share: row.try_get::<Option<f64>, _>(11)?.unwrap_or(0.0),
            };
            // One line for each user: the statement is the same.
            by_id
                .entry(one.query_id)
                .and_modify(|known| merge(known, &one))
                .or_insert(one);
        }
        let mut statements: Vec<_> = by_id.into_values().collect();
        statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
        Ok(Ok(Self {
            at,
            since,
            forgotten,
            hidden,
            statements,
        }))
    }

    /// What happened since `before`. A statement whose count went down was reset in between, and counts from zero.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let known: HashMap<i64, &StatementLoad> = before.statements.iter().map(|s| (s.query_id, s)).collect();
        let reset = self.since > before.at;
        let mut statements: Vec<StatementLoad> = self
            .statements
            .iter()
            .filter_map(
                |now| match known.get(&now.query_id).filter(|old| !reset && old.calls <= now.calls) {
                    Some(old) if old.calls == now.calls => None,
                    Some(old) => {
                        let calls = now.calls - old.calls;
                        let total_ms = (now.total_ms - old.total_ms).max(0.0);
                        Some(StatementLoad {
                            calls,
                            total_ms,
                            mean_ms: total_ms / calls as f64,
                            rows: now.rows - old.rows,
                            hits: now.hits - old.hits,
                            reads: now.reads - old.reads,
                            temp_written: now.temp_written - old.temp_written,
                            ..now.clone()
                        })
                    }
                    None => Some(now.clone()),
                },
            )
            .collect();
        let all: f64 = statements.iter().map(|s| s.total_ms).sum();
        for statement in &mut statements {
            statement.share = if all > 0.0 { statement.total_ms / all } else { 0.0 };
        }
        statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
        Self {
            at: self.at,
            since: before.at,
            forgotten: self.forgotten - before.forgotten,
            hidden: self.hidden,
            statements,
        }
    }

    /// Statements whose mean since `before` is at least `factor` times what it was until then, with that earlier mean.
    /// Both sides need 20 calls: fewer are an accident.
    pub fn regressions(&self, before: &Self, factor: f64) -> Vec<(StatementLoad, f64)> {
        let known: HashMap<i64, &StatementLoad> = before.statements.iter().map(|s| (s.query_id, s)).collect();
        self.since(before)
            .statements
            .into_iter()
            .filter_map(|now| {
                let old = known.get(&now.query_id)?;
                let worse = old.calls >= 20 && now.calls >= 20 && now.mean_ms > old.mean_ms * factor;
                // Below some milliseconds a busy machine alone does that.
                (worse && now.mean_ms > 5.0).then_some((now, old.mean_ms))
            })
            .collect()
    }

    /// The statements that the client has measured too, by fingerprint.
    pub fn joined<'a>(&'a self, client: &'a [ClientLoad]) -> Vec<BothSides<'a>> {
        let by: HashMap<Fingerprint, &ClientLoad> = client.iter().map(|c| (c.fingerprint, c)).collect();
        self.statements
            .iter()
            .filter_map(|server| {
                let client = *by.get(&server.fingerprint())?;
                Some(BothSides {
                    server,
                    client,
                    outside_ms: (client.mean_ms - server.mean_ms).max(0.0),
                })
            })
            .collect()
    }
}

fn merge(known: &mut StatementLoad, more: &StatementLoad) {
    known.calls += more.calls;
    known.total_ms += more.total_ms;
    known.mean_ms = known.total_ms / known.calls.max(1) as f64;
    known.stddev_ms = known.stddev_ms.max(more.stddev_ms);
    known.max_ms = known.max_ms.max(more.max_ms);
    known.rows += more.rows;
    known.hits += more.hits;
    known.reads += more.reads;
    known.temp_written += more.temp_written;
    known.share += more.share;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(query_id: i64, calls: i64, total_ms: f64) -> StatementLoad {
        StatementLoad {
            query_id,
            query: format!("SELECT $1 FROM t{query_id}"),
            calls,
            total_ms,
            mean_ms: total_ms / calls as f64,
            stddev_ms: 0.0,
            max_ms: 0.0,
            rows: calls,
            hits: 0,
            reads: 0,
            temp_written: 0,
            share: 0.0,
        }
    }

    fn at(at: f64, statements: Vec<StatementLoad>) -> Workload {
        Workload {
            at,
            statements,
            ..Workload::default()
        }
    }

    #[test]
    fn differences_leave_out_what_did_not_run_and_survive_a_reset() {
        let before = at(1.0, vec![load(1, 100, 100.0), load(2, 5, 5.0), load(3, 50, 10.0)]);
        let after = at(2.0, vec![load(1, 150, 1100.0), load(2, 5, 5.0), load(3, 10, 10.0)]);
        let since = after.since(&before);
        let ids: Vec<_> = since.statements.iter().map(|s| (s.query_id, s.calls)).collect();
        assert_eq!(ids, [(1, 50), (3, 10)]);
        assert!((since.statements[0].mean_ms - 20.0).abs() < 1e-9);
        assert!((since.statements[0].share - 1000.0 / 1010.0).abs() < 1e-9);
        let worse = after.regressions(&before, 2.0);
        assert_eq!(worse.len(), 1);
        assert_eq!(worse[0].0.query_id, 1);
    }

    #[test]
    fn the_clients_figures_are_read_as_the_stack_writes_them() {
        let whole = r#"{"prepares": 3, "statements": [
            {"fingerprint": "00000000000000ff", "summary": "SELECT t", "uses": 40, "hits": 39, "mean_ms": 1.5},
            {"fingerprint": "0000000000000001", "uses": 1, "mean_ms": null}]}"#;
        let read = ClientLoad::from_json(whole).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].fingerprint.get(), read[0].calls, read[0].mean_ms),
            (255, 40, 1.5)
        );
        assert!(ClientLoad::from_json("[]").unwrap().is_empty());
        for wrong in ["{}", "7", r#"[{"fingerprint": "x", "uses": 1, "mean_ms": 1.0}]"#] {
            assert!(ClientLoad::from_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_sides_meet_by_fingerprint() {
        let server = at(1.0, vec![load(1, 10, 50.0)]);
        let client = [ClientLoad {
            fingerprint: StatementFacts::of("select $1 from T1").fingerprint(),
            calls: 10,
            mean_ms: 7.0,
        }];
        let both = server.joined(&client);
        assert!((both[0].outside_ms - 2.0).abs() < 1e-9);
    }
}
