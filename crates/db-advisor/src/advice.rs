//! Which index would help: candidates from the statements' own plans, tested where HypoPG is installed.

use crate::{
    AdvisorError, Looking,
    candidate::{Candidate, candidates},
    explain::generic,
    plan::Plan,
    workload::StatementLoad,
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor};
use std::collections::HashMap;

/// An index must at least halve the plan's cost. Own choice: less is not worth its writes.
const GAIN: f64 = 2.0;

/// An index that would help. Nothing here ever creates it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexAdvice {
    /// Schema and table.
    pub table: String,
    /// Its columns, in order.
    pub columns: Vec<String>,
    /// What to run.
    pub ddl: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Cost of the statement's plan now.
    pub cost_before: f64,
    /// Cost with the index.
    pub cost_after: f64,
    /// Whether the planner itself said so (HypoPG), rather than a rule.
    pub tested: bool,
    /// The statement, by the server's number.
    pub query_id: i64,
    /// The statement's share of all the time, 0 to 1.
    pub share: f64,
    /// Rows of the table that were changed for each time that it was scanned: what the index would cost.
    pub writes_per_scan: f64,
}

/// What is known about a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableFacts {
    pub(crate) schema: String,
    pub(crate) rows: f64,
    pub(crate) writes_per_scan: f64,
    /// Leading columns of each valid index.
    pub(crate) indexes: Vec<Vec<String>>,
    /// Distinct values by column; negative: as a share of the rows.
    pub(crate) distinct: HashMap<String, f64>,
}

/// Tables by name, as plans name them.
pub(crate) type Tables = HashMap<String, TableFacts>;

pub(crate) async fn tables(looking: &mut Looking) -> Result<Tables, AdvisorError> {
    let mut tables = Tables::new();
    let rows: Vec<(String, String, f64, f64)> = sqlx::query_as(
        "SELECT c.relname::text, n.nspname::text, greatest(c.reltuples, s.n_live_tup)::float8, \
                ((s.n_tup_ins + s.n_tup_upd + s.n_tup_del)::float8 / greatest(s.seq_scan + coalesce(s.idx_scan, 0), 1)) \
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         JOIN pg_stat_user_tables AS s ON s.relid = c.oid",
    )
    .fetch_all(&mut looking.pg)
    .await?;
    for (name, schema, rows, writes_per_scan) in rows {
        tables.insert(
            name,
            TableFacts {
                schema,
                rows,
                writes_per_scan,
                ..TableFacts::default()
            },
        );
    }
    let indexes: Vec<(String, Vec<String>)> = sqlx::query_as(
        "SELECT c.relname::text, array_agg(a.attname::text ORDER BY k.place) \
         FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid \
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place) \
         JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid, c.relname",
    )
    .fetch_all(&mut looking.pg)
    .await?;
    for (table, columns) in indexes {
        if let Some(facts) = tables.get_mut(&table) {
            facts.indexes.push(columns);
        }
    }
    let stats: Vec<(String, String, f32)> = sqlx::query_as(
        "SELECT tablename::text, attname::text, n_distinct FROM pg_stats WHERE schemaname NOT IN ('pg_catalog', \
         'information_schema')",
    )
    .fetch_all(&mut looking.pg)
    .await?;
    for (table, column, distinct) in stats {
        if let Some(facts) = tables.get_mut(&table) {
            facts.distinct.insert(column, f64::from(distinct));
        }
    }
    Ok(tables)
}

/// Where HypoPG lives in this database.
pub(crate) async fn hypopg(looking: &mut Looking) -> Result<Option<String>, AdvisorError> {
    let schema: Option<String> = sqlx::query_scalar(
        "SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace \
         WHERE e.extname = 'hypopg'",
    )
    .fetch_optional(&mut looking.pg)
    .await?;
    Ok(schema)
}

/// The best index for one statement, if one is worth it. Inside no transaction.
pub(crate) async fn advise(
    looking: &mut Looking,
    statement: &StatementLoad,
    plan: &Plan,
    tables: &Tables,
    hypopg: Option<&str>,
) -> Result<Option<IndexAdvice>, AdvisorError> {
    let mut best: Option<IndexAdvice> = None;
    for candidate in candidates(plan, tables) {
        let Some(facts) = tables.get(&candidate.table) else {
            continue;
        };
        let after = match hypopg {
            Some(schema) => with_index(looking, schema, statement, &candidate, facts).await?,
            None => Some((plan.cost() - candidate.cost).max(0.0) + candidate.by_rule(facts)),
        };
        let Some(after) = after.filter(|after| plan.cost() / after.max(0.01) >= GAIN) else {
            continue;
        };
        if best.as_ref().is_none_or(|best| after < best.cost_after) {
            best = Some(advice(statement, plan, &candidate, facts, after, hypopg.is_some()));
        }
    }
    Ok(best)
}

async fn with_index(
    looking: &mut Looking,
    schema: &str,
    statement: &StatementLoad,
    candidate: &Candidate,
    facts: &TableFacts,
) -> Result<Option<f64>, AdvisorError> {
    let create = create(candidate, facts, "CREATE INDEX ON");
    looking.begin().await?;
    let tried = async {
        // Hypothetical: it is in this session's memory alone, and auto_explain must not look for it on disk.
        sqlx::query(AssertSqlSafe(format!("SELECT FROM {schema}.hypopg_create_index($1)")))
            .bind(create)
            .persistent(false)
            .execute(&mut looking.pg)
            .await?;
        generic(looking, &statement.query).await
    }
    .await;
    looking.end().await?;
    looking
        .pg
        .execute(sqlx::raw_sql(AssertSqlSafe(format!("SELECT {schema}.hypopg_reset()"))))
        .await?;
    match tried {
        Ok(plan) => Ok(Some(plan.cost())),
        Err(AdvisorError::Sql(sqlx::Error::Database(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(candidate: &Candidate, facts: &TableFacts, create: &str) -> String {
    let quoted = |name: &str| {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if plain {
            name.to_owned()
        } else {
            format!("\"{}\"", name.replace('"', "\"\""))
        }
    };
    let columns: Vec<_> = candidate.columns.iter().map(|c| quoted(c)).collect();
    format!(
        "{create} {}.{} ({})",
        quoted(&facts.schema),
        quoted(&candidate.table),
        columns.join(", ")
    )
}

fn advice(
    statement: &StatementLoad,
    plan: &Plan,
    candidate: &Candidate,
    facts: &TableFacts,
    after: f64,
    tested: bool,
) -> IndexAdvice {
    let table = format!("{}.{}", facts.schema, candidate.table);
    let how = if tested {
        "the planner with a hypothetical index"
    } else {
        "a rule, untested: HypoPG is not installed"
    };
    IndexAdvice {
        ddl: format!("{};", create(candidate, facts, "CREATE INDEX CONCURRENTLY ON")),
        reason: format!(
            "{}; expected cost {:.0} instead of {:.0}, {:.0} times less (by {how})",
            candidate.reason(facts),
            after,
            plan.cost(),
            plan.cost() / after.max(0.01),
        ),
        table,
        columns: candidate.columns.clone(),
        cost_before: plan.cost(),
        cost_after: after,
        tested,
        query_id: statement.query_id,
        share: statement.share,
        writes_per_scan: facts.writes_per_scan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Purpose;

    #[test]
    fn names_are_quoted_where_they_must_be() {
        let candidate = Candidate {
            table: "Orders".to_owned(),
            columns: vec!["customer".to_owned(), "a\"b".to_owned(), "1st".to_owned()],
            purpose: Purpose::Filter,
            returned: 1.0,
            cost: 1.0,
        };
        let facts = TableFacts {
            schema: "public".to_owned(),
            ..TableFacts::default()
        };
        assert_eq!(
            create(&candidate, &facts, "CREATE INDEX ON"),
            "CREATE INDEX ON public.\"Orders\" (customer, \"a\"\"b\", \"1st\")"
        );
    }
}
