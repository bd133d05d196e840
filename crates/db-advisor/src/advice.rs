//! Which index would help: candidates from the statements' own plans, tested where HypoPG is installed.

use crate::{
    AdvisorError, Looking,
    explain::generic,
    plan::{Node, Plan},
    predicate::{Columns, columns},
    workload::StatementLoad,
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor};
use std::collections::HashMap;

/// Smaller tables are read in one go whatever there is.
const ROWS: f64 = 10_000.0;
/// An index must at least halve the plan's cost. Own choice: less is not worth its writes.
const GAIN: f64 = 2.0;
/// Columns of an advised index.
const WIDTH: usize = 3;

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

/// A table and the columns of an index on it that the statement's plan asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    /// Rows that the scan returns of all that it reads.
    returned: f64,
    cost: f64,
}

/// Candidates from the sequential scans of a plan.
pub(crate) fn candidates(plan: &Plan, tables: &Tables) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for node in plan.nodes() {
        let Some((name, facts)) = scanned(node, tables) else {
            continue;
        };
        let Some(filter) = &node.filter else { continue };
        let Columns { mut equal, range } = columns(filter);
        let distinct = |column: &String| match facts.distinct.get(column) {
            Some(share) if *share < 0.0 => -share * facts.rows,
            Some(count) => *count,
            None => 0.0,
        };
        equal.sort_by(|a, b| distinct(b).total_cmp(&distinct(a)));
        equal.truncate(WIDTH);
        let mut wanted = equal;
        if wanted.len() < WIDTH {
            wanted.extend(range.into_iter().next());
        }
        wanted.dedup();
        let covered = facts
            .indexes
            .iter()
            .any(|index| !wanted.is_empty() && index.first() == wanted.first() && index.len() >= wanted.len());
        let candidate = Candidate {
            table: name.to_owned(),
            columns: wanted,
            returned: node.rows,
            cost: node.cost,
        };
        if !candidate.columns.is_empty() && !covered && !found.iter().any(|c| c.columns == candidate.columns) {
            found.push(candidate);
        }
    }
    found
}

fn scanned<'t>(node: &Node, tables: &'t Tables) -> Option<(&'t str, &'t TableFacts)> {
    let name = node.relation.as_ref().filter(|_| node.kind == "Seq Scan")?;
    let (name, facts) = tables.get_key_value(name)?;
    (facts.rows >= ROWS).then_some((name.as_str(), facts))
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
            None => Some(plan.cost() - candidate.cost + by_rule(&candidate, facts)),
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

/// A descent and one page for each row that comes back.
fn by_rule(candidate: &Candidate, facts: &TableFacts) -> f64 {
    let share = candidate.returned / facts.rows.max(1.0);
    // Beyond a tenth of the table the planner would go on scanning.
    if share > 0.1 {
        f64::INFINITY
    } else {
        8.0 + candidate.returned * 4.0
    }
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
            "reads all {:.0} rows of {table} for {:.0}; expected cost {:.0} instead of {:.0}, {:.0} times less (by {how})",
            facts.rows,
            candidate.returned,
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

    #[test]
    fn candidates_put_the_most_selective_equality_first_and_a_range_last() {
        let plan = Plan::from_json(
            &serde_json::json!([{"Plan": {"Node Type": "Seq Scan", "Relation Name": "orders",
            "Filter": "((state = $1) AND (customer = $2) AND (placed > $3))", "Total Cost": 900.0, "Plan Rows": 3}}]),
        );
        let mut facts = TableFacts {
            schema: "public".to_owned(),
            rows: 50_000.0,
            ..TableFacts::default()
        };
        facts
            .distinct
            .extend([("state".to_owned(), 4.0), ("customer".to_owned(), -0.5)]);
        let mut tables = Tables::from([("orders".to_owned(), facts.clone())]);
        let found = candidates(&plan, &tables);
        assert_eq!(found[0].columns, ["customer", "state", "placed"]);
        assert_eq!(
            create(&found[0], &facts, "CREATE INDEX ON"),
            "CREATE INDEX ON public.orders (customer, state, placed)"
        );
        let has = vec!["customer".to_owned(), "state".to_owned(), "placed".to_owned()];
        tables.get_mut("orders").unwrap().indexes.push(has);
        assert_eq!(candidates(&plan, &tables), []);
    }
}
