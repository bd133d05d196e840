//! EXPLAIN that runs nothing: plain and generic for what may be planned, ANALYZE for proven reads only.

use crate::{AdvisorError, Looking, plan::Plan};
use db_core::{StatementFacts, StatementKind};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor, Row, postgres::PgRow};
use std::time::{Duration, Instant};

/// Longer texts are not explained: planning them is a load of its own.
const LONGEST: usize = 64 * 1024;

/// Why a statement is not explained. Nothing of it was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Explaining is off.
    #[error("explaining is off; it is a setting")]
    Off,
    /// So many were explained a moment ago.
    #[error("the limit of statements explained in a minute is reached")]
    TooMany,
    /// Several statements in one text.
    #[error("the text holds more than one statement")]
    Several,
    /// Not a query and not a change of rows, or not understood.
    #[error(
        "only SELECT, VALUES, INSERT, UPDATE, DELETE and MERGE have plans, and this one was not recognised as such"
    )]
    NotAQuery,
    /// Even planning runs functions that are called immutable.
    #[error("it calls a function that is not one of the server's own, and planning may run it")]
    Function,
    /// ANALYZE runs the statement.
    #[error("ANALYZE would run it, and it is not proven to only read")]
    NotARead,
    /// A lock stronger than ACCESS SHARE would be taken.
    #[error("planning it takes a stronger lock than reading does")]
    Lock,
    /// The text was cut or hidden by the server.
    #[error("the text is cut, hidden or too long")]
    Text,
}

/// What may be explained, and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExplainConfig {
    /// Whether anything is explained. Default false.
    pub enabled: bool,
    /// Statements explained in one minute. Default 20 (own choice), 0 for none.
    pub per_minute: u32,
    /// Whether changes of rows may be planned (never run). Planning them takes ROW EXCLUSIVE, which holds up nobody but
    /// DDL. Default false.
    pub writes: bool,
}

impl Default for ExplainConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            per_minute: 20,
            writes: false,
        }
    }
}

/// Explains statements, at most so many in a minute.
#[derive(Debug)]
pub struct Explainer {
    config: ExplainConfig,
    minute: Instant,
    used: u32,
}

impl Explainer {
    /// One with these limits.
    pub fn new(config: ExplainConfig) -> Self {
        Self {
            config,
            minute: Instant::now(),
            used: 0,
        }
    }

    /// Whether the text may be planned, judged by the text alone.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn judge(&self, sql: &str) -> Result<StatementFacts, Refusal> {
        if sql.len() > LONGEST || sql.contains('\0') || sql.starts_with("<insufficient privilege>") {
            return Err(Refusal::Text);
        }
        let facts = StatementFacts::of(sql);
        if facts.statements() != 1 {
            return Err(Refusal::Several);
        }
        if !matches!(facts.kind(), StatementKind::Read | StatementKind::Write) || !facts.is_self_contained() {
            return Err(Refusal::NotAQuery);
        }
        let first = sql
            .trim_start_matches(|c: char| c.is_whitespace() || c == '(')
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !matches!(
            &*first,
            "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge"
        ) {
            return Err(Refusal::NotAQuery);
        }
        if facts.opaque_function() {
            return Err(Refusal::Function);
        }
        if (facts.kind() == StatementKind::Write || facts.locking()) && !self.config.writes {
            return Err(Refusal::Lock);
        }
        Ok(facts)
    }

    fn admit(&mut self) -> Result<(), Refusal> {
        if !self.config.enabled {
            return Err(Refusal::Off);
        }
        if self.minute.elapsed() >= Duration::from_secs(60) {
            (self.minute, self.used) = (Instant::now(), 0);
        }
        if self.used >= self.config.per_minute {
            return Err(Refusal::TooMany);
        }
        self.used += 1;
        Ok(())
    }

    /// The plan that the server makes for any values of the parameters. Nothing runs; the transaction is read-only.
    ///
    /// # Errors
    /// [`AdvisorError::Refused`], or the server's: a text that `pg_stat_statements` has made unparsable, a missing right.
    pub async fn plan(&mut self, looking: &mut Looking, sql: &str) -> Result<Plan, AdvisorError> {
        self.judge(sql)?;
        self.admit()?;
        looking.begin().await?;
        let planned = generic(looking, sql).await;
        looking.end().await?;
        planned
    }

    /// Runs a statement without parameters that is proven to only read, and returns its plan with what really happened.
    ///
    /// # Errors
    /// As [`Explainer::plan`].
    pub async fn analyze(&mut self, looking: &mut Looking, sql: &str) -> Result<Plan, AdvisorError> {
        let facts = self.judge(sql)?;
        if !facts.is_pure_read() || facts.depends_on_session() {
            return Err(Refusal::NotARead.into());
        }
        self.admit()?;
        looking.begin().await?;
        let analyzed = async {
            // A view, a foreign table or a table with row security runs what is not in the text.
            for table in facts.reads() {
                let known: Option<bool> = sqlx::query_scalar(
                    "SELECT relkind IN ('r', 'p', 'm') AND NOT relrowsecurity FROM pg_class \
                     WHERE oid = to_regclass($1) AND NOT EXISTS (SELECT FROM pg_partitioned_table AS p \
                         JOIN pg_inherits AS i ON i.inhparent = p.partrelid JOIN pg_class AS c ON c.oid = i.inhrelid \
                         WHERE p.partrelid = pg_class.oid AND c.relkind = 'f')",
                )
                .bind(qualified(table))
                .persistent(false)
                .fetch_optional(&mut looking.pg)
                .await?;
                if known != Some(true) {
                    return Err(Refusal::NotARead.into());
                }
            }
            search_path(looking).await?;
            let sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
            one_plan(looking, sql).await
        }
        .await;
        looking.end().await?;
        analyzed
    }
}

fn qualified(table: &db_core::TableName) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    match &table.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(&table.name)),
        // The statement's own path, not the advisor's.
        None => format!("public.{}", quoted(&table.name)),
    }
}

/// Inside the transaction: unqualified names as an ordinary session finds them.
pub(crate) async fn search_path(looking: &mut Looking) -> Result<(), AdvisorError> {
    looking.pg.execute("SET LOCAL search_path TO \"$user\", public").await?;
    Ok(())
}

/// The generic plan, inside a read-only transaction.
pub(crate) async fn generic(looking: &mut Looking, sql: &str) -> Result<Plan, AdvisorError> {
    search_path(looking).await?;
    let sql = sql.trim_end().trim_end_matches(';');
    if looking.version < 160_000 {
        looking
            .pg
            .execute("SET LOCAL plan_cache_mode TO force_generic_plan")
            .await?;
    }
    // PREPARE only plans; what is prepared is never executed, and the extended protocol takes one statement at a time.
    // A name of its own: what an aborted transaction has prepared stays.
    looking.plans += 1;
    let name = format!("db_stack_plan_{}", looking.plans);
    sqlx::query(AssertSqlSafe(format!("PREPARE {name} AS {sql}")))
        .persistent(false)
        .execute(&mut looking.pg)
        .await?;
    let planned = if looking.version < 160_000 {
        executed(looking, &name).await
    } else {
        // By the simple protocol: the extended one wants values for the parameters. That the text is one statement the
        // server has just found.
        let sql = format!("EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}");
        plan_of(looking.pg.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await?)
    };
    if planned.is_ok() {
        looking
            .pg
            .execute(sqlx::raw_sql(AssertSqlSafe(format!("DEALLOCATE {name}"))))
            .await?;
    }
    planned
}

/// The generic plan of a prepared statement, by way of executing it: parameters are NULL.
async fn executed(looking: &mut Looking, name: &str) -> Result<Plan, AdvisorError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT coalesce(cardinality(parameter_types), 0)::bigint FROM pg_prepared_statements WHERE name = $1",
    )
    .bind(name)
    .persistent(false)
    .fetch_one(&mut looking.pg)
    .await?;
    let nulls = vec!["NULL"; usize::try_from(count).unwrap_or(0)].join(", ");
    let values = if count > 0 { format!("({nulls})") } else { String::new() };
    one_plan(looking, format!("EXPLAIN (FORMAT JSON) EXECUTE {name}{values}")).await
}

async fn one_plan(looking: &mut Looking, sql: String) -> Result<Plan, AdvisorError> {
    // Extended protocol: a second statement in the text is refused by the server.
    let row = sqlx::query(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_one(&mut looking.pg)
        .await?;
    plan_of(row)
}

fn plan_of(row: PgRow) -> Result<Plan, AdvisorError> {
    let json: serde_json::Value = row.try_get(0)?;
    Ok(Plan::from_json(&json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_alone_decides_what_may_be_planned() {
        let explainer = Explainer::new(ExplainConfig::default());
        let judge = |sql| explainer.judge(sql).map(|_| ());
        assert_eq!(judge("SELECT * FROM t WHERE a = $1"), Ok(()));
        assert_eq!(judge("SELECT 1; DELETE FROM t"), Err(Refusal::Several));
        assert_eq!(judge("DELETE FROM t"), Err(Refusal::Lock));
        assert_eq!(
            judge("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x"),
            Err(Refusal::Lock)
        );
        assert_eq!(judge("SELECT * FROM t FOR UPDATE"), Err(Refusal::Lock));
        assert_eq!(judge("SELECT my_function(1)"), Err(Refusal::Function));
        assert_eq!(judge("DO $$ BEGIN DELETE FROM t; END $$"), Err(Refusal::NotAQuery));
        assert_eq!(judge("DROP TABLE t"), Err(Refusal::NotAQuery));
        assert_eq!(judge("SET work_mem = 1"), Err(Refusal::NotAQuery));
        assert_eq!(judge("EXPLAIN ANALYZE DELETE FROM t"), Err(Refusal::NotAQuery));
        assert_eq!(judge("<insufficient privilege>"), Err(Refusal::Text));
        let writes = Explainer::new(ExplainConfig {
            writes: true,
            ..ExplainConfig::default()
        });
        assert!(writes.judge("DELETE FROM t").is_ok());
    }
}
