//! What takes long, what is run too often, what has changed, and which index would help.

use super::{KnownPlan, Outside, Visit};
use db_core::{StatementFacts, TableName};

use crate::{
    AdvisorError, Area, Finding, Severity,
    advice::{self, Tables},
    plan::Plan,
    workload::{BothSides, ClientLoad, StatementLoad, Workload},
};

/// Fewer calls are an accident.
const CALLS: i64 = 5;
/// Repeats for each row of another statement: as many as this are a pattern.
const REPEATS: i64 = 500;
/// A mean so many times longer than before the last visit.
const WORSE: f64 = 3.0;
/// Less time outside the server is the network's. Own choice.
const OUTSIDE_MS: f64 = 5.0;
/// Shares of all the time below this are not worth an index.
const SHARE: f64 = 0.005;

pub(super) async fn statements(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let workload = match Workload::read(visit.looking).await? {
        Ok(workload) => workload,
        Err(missing) => {
            visit.unseen.push(format!("statements: {}", missing.0));
            return Ok(());
        }
    };
    let hidden = workload.hidden;
    if hidden > 0 {
        visit.unseen.push(format!(
            "statements: {hidden} of other roles are hidden; grant pg_monitor"
        ));
    }
    let latest = match visit.before {
        Some(before) => workload.since(&before.workload),
        None => workload.clone(),
    };
    slow(visit, &latest);
    waits(visit, &latest);
    repeats(visit, &latest);
    if let Some(before) = visit.before {
        for (now, mean) in workload.regressions(&before.workload, WORSE) {
            visit.found(
                about(&now, Severity::Warning, "regression")
                    .title(format!(
                        "a statement takes {:.1} times as long as before the last visit",
                        now.mean_ms / mean
                    ))
                    .evidence(format!(
                        "mean {mean:.2} ms then, {:.2} ms now, {} calls",
                        now.mean_ms, now.calls
                    ))
                    .fix(format!("look at its plan and at what changed: {}", now.short(120))),
            );
        }
    }
    plans(visit, &latest).await?;
    visit.snapshot.workload = workload;
    Ok(())
}

fn about(statement: &StatementLoad, severity: Severity, id: &str) -> Finding {
    Finding::new(Area::SlowQueries, severity, id, statement.fingerprint().to_string())
}

/// Whether it is an application's statement, rather than maintenance or a look at the server's own tables, such as these
/// visits.
fn ordinary(statement: &StatementLoad) -> bool {
    let first = statement
        .query
        .trim_start()
        .split(|c: char| !c.is_ascii_alphabetic())
        .next()
        .unwrap_or_default();
    [
        "select", "with", "insert", "update", "delete", "merge", "values", "table",
    ]
    .iter()
    .any(|word| first.eq_ignore_ascii_case(word))
        && !looks_at_the_server(&statement.query)
}

fn looks_at_the_server(query: &str) -> bool {
    let facts = StatementFacts::of(query);
    let own = |table: &TableName| {
        let schema = table.schema.as_deref();
        matches!(schema, Some("pg_catalog" | "information_schema")) || table.name.starts_with("pg_")
    };
    !facts.reads().is_empty() && facts.writes().is_empty() && facts.reads().iter().all(own)
}

fn slow(visit: &mut Visit<'_>, workload: &Workload) {
    let limit = visit.options.slow.as_secs_f64() * 1e3;
    for statement in workload.statements.iter().filter(|s| ordinary(s)) {
        if statement.mean_ms >= limit && statement.calls >= CALLS {
            visit.found(
                about(statement, Severity::Warning, "slow-statement")
                    .title(format!("a statement takes {:.0} ms on average", statement.mean_ms))
                    .evidence(format!(
                        "{} calls, at most {:.0} ms, {:.0} % of all time, {:.1} rows and {:.0} pages a call{}: {}",
                        statement.calls,
                        statement.max_ms,
                        statement.share * 100.0,
                        statement.rows_per_call(),
                        (statement.hits + statement.reads) as f64 / statement.calls as f64,
                        if statement.temp_written > 0 {
                            ", spills to disk"
                        } else {
                            ""
                        },
                        statement.short(120)
                    ))
                    .fix("db-stack explain shows its plan; give the call its own class and limit meanwhile"),
            );
        }
    }
}

/// Statements whose callers wait elsewhere than on the server.
fn waits(visit: &mut Visit<'_>, workload: &Workload) {
    for both in workload.joined(&visit.options.client) {
        if both.outside_ms >= OUTSIDE_MS && both.outside_ms > both.server.mean_ms && both.client.calls >= 20 {
            let mut finding = about(both.server, Severity::Warning, "waits-outside")
                .title("callers of a statement wait longer than the server works on it")
                .evidence(format!(
                    "{} calls, {:.1} ms each for the caller, {:.1} ms on the server: {}",
                    both.client.calls,
                    both.client.mean_ms,
                    both.server.mean_ms,
                    both.server.short(120)
                ))
                .fix(
                    "look at db.stats(): waits for a connection want a larger pool or shorter holds; else the network",
                );
            finding.area = Area::PoolFit;
            visit.found(finding);
        }
    }
}

/// Both sides of the statements that the client has measured.
pub(super) fn outside(workload: &Workload, client: &[ClientLoad]) -> Vec<Outside> {
    let mut both = workload.joined(client);
    let cost = |both: &BothSides<'_>| both.outside_ms * both.client.calls as f64;
    both.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    both.into_iter()
        .take(10)
        .map(|both| Outside {
            fingerprint: both.client.fingerprint.to_string(),
            statement: both.server.short(90),
            calls: both.client.calls,
            server_ms: both.server.mean_ms,
            client_ms: both.client.mean_ms,
            outside_ms: both.outside_ms,
        })
        .collect()
}

/// One look-up for each row of another statement.
fn repeats(visit: &mut Visit<'_>, workload: &Workload) {
    for inner in workload.statements.iter().filter(|s| ordinary(s) && s.calls >= REPEATS) {
        let one = inner.rows_per_call() <= 1.5 && inner.query.contains("$1");
        let off = |outer: &StatementLoad| (inner.calls as f64 / outer.rows.max(1) as f64 - 1.0).abs();
        let lists = workload.statements.iter().filter(|outer| {
            outer.query_id != inner.query_id
                && ordinary(outer)
                && outer.rows_per_call() >= 5.0
                && outer.calls * 5 <= inner.calls
                && off(outer) <= 0.05
        });
        let outer = lists.min_by(|a, b| off(a).total_cmp(&off(b)));
        if let Some(outer) =
            outer.filter(|_| one && !inner.query.trim_start().to_ascii_lowercase().starts_with("insert"))
        {
            visit.found(
                about(inner, Severity::Warning, "n-plus-one")
                    .title("a look-up runs once for each row of another statement")
                    .evidence(format!(
                        "{} calls of [{}] for {} rows of [{}]",
                        inner.calls,
                        inner.short(80),
                        outer.rows,
                        outer.short(80)
                    ))
                    .fix("join the two, or look all keys up at once: WHERE id = ANY($1)"),
            );
        }
    }
}

async fn plans(visit: &mut Visit<'_>, workload: &Workload) -> Result<(), AdvisorError> {
    if visit.options.explain == 0 {
        return Ok(());
    }
    let tables = match advice::tables(visit.looking).await {
        Ok(tables) => tables,
        Err(AdvisorError::Sql(sqlx::Error::Database(error))) => {
            visit.unseen.push(format!("index advice: {}", error.message()));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let hypopg = advice::hypopg(visit.looking).await?;
    if hypopg.is_none() {
        visit
            .unseen
            .push("index advice: by rules only; with CREATE EXTENSION hypopg the planner is asked".to_owned());
    }
    let mut unplanned = 0;
    let wanted = usize::try_from(visit.options.explain).unwrap_or(usize::MAX);
    let worth = |s: &&StatementLoad| ordinary(s) && visit.explainer.judge(&s.query).is_ok();
    let candidates: Vec<StatementLoad> = workload.statements.iter().filter(worth).take(wanted).cloned().collect();
    for statement in candidates {
        if !visit.time_left() {
            visit.unseen.push("plans: no time left for all of them".to_owned());
            break;
        }
        match visit.explainer.plan(visit.looking, &statement.query).await {
            Ok(plan) => one(visit, &statement, &plan, &tables, hypopg.as_deref()).await?,
            // A text with `interval $1`, a table that is gone, no right to it.
            Err(AdvisorError::Refused(_) | AdvisorError::Sql(sqlx::Error::Database(_))) => unplanned += 1,
            Err(error) => return Err(error),
        }
    }
    if unplanned > 0 {
        visit.unseen.push(format!(
            "plans: {unplanned} statements could not be planned from their recorded text"
        ));
    }
    Ok(())
}

async fn one(
    visit: &mut Visit<'_>,
    statement: &StatementLoad,
    plan: &Plan,
    tables: &Tables,
    hypopg: Option<&str>,
) -> Result<(), AdvisorError> {
    let now = KnownPlan {
        shape: plan.shape(),
        cost: plan.cost(),
        outline: plan.outline(),
    };
    let before = visit.before.and_then(|before| before.plans.get(&statement.query_id));
    if let Some(before) = before.filter(|before| before.shape != now.shape) {
        visit.found(
            about(statement, Severity::Warning, "plan-flip")
                .title("a statement has another plan than at the last visit")
                .evidence(format!(
                    "cost {:.0} then, {:.0} now; then: {}; now: {}; of: {}",
                    before.cost,
                    now.cost,
                    before.outline.trim().replace('\n', " / "),
                    now.outline.trim().replace('\n', " / "),
                    statement.short(100)
                ))
                .fix("ANALYZE its tables; compare an index that went, statistics that moved, a setting"),
        );
    }
    visit.snapshot.plans.insert(statement.query_id, now);
    if statement.share < SHARE {
        return Ok(());
    }
    if let Some(found) = advice::advise(visit.looking, statement, plan, tables, hypopg).await? {
        let known = visit
            .advice
            .iter()
            .any(|a| a.table == found.table && a.columns == found.columns);
        if !known {
            let mut finding = about(statement, Severity::Warning, "missing-index")
                .title(format!(
                    "an index on {} ({}) is missing",
                    found.table,
                    found.columns.join(", ")
                ))
                .evidence(format!(
                    "{}; {:.0} % of all time; {:.1} writes to the table for each scan; {}",
                    found.reason,
                    found.share * 100.0,
                    found.writes_per_scan,
                    statement.short(120)
                ))
                .fix(found.ddl.clone());
            finding.area = Area::Indexes;
            visit.found(finding);
            visit.advice.push(found);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_the_server_are_told_from_the_applications_statements() {
        assert!(looks_at_the_server(
            "SELECT count(*) FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)"
        ));
        assert!(looks_at_the_server("SELECT * FROM information_schema.tables"));
        assert!(!looks_at_the_server("SELECT * FROM orders JOIN pg_class ON true"));
        assert!(!looks_at_the_server("SELECT pg_sleep(1)"));
        assert!(!looks_at_the_server(
            "SELECT sum(total) FROM orders, pg_sleep($2) WHERE id > $1"
        ));
    }
}
