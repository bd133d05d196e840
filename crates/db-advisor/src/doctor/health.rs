//! Tables that bloat, sequences that run out, transaction numbers.

use super::Visit;
use crate::{AdvisorError, Area, Finding, Severity};

use sqlx::AssertSqlSafe;

/// Fewer dead rows are nobody's trouble.
const DEAD: i64 = 5_000;
/// Sequences that are read in one statement.
const TOGETHER: usize = 100;

pub(super) async fn tables(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(String, i64, i64, Option<String>, bool)> = sqlx::query_as(
        "SELECT format('%I.%I', s.schemaname, s.relname), s.n_live_tup, s.n_dead_tup, \
                greatest(s.last_vacuum, s.last_autovacuum)::text, \
                coalesce('autovacuum_enabled=false' = ANY (c.reloptions) OR 'autovacuum_enabled=off' = ANY (c.reloptions), false) \
         FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid \
         WHERE s.n_dead_tup >= $1 AND s.n_dead_tup > 0.3 * (s.n_live_tup + s.n_dead_tup)",
    )
    .bind(DEAD)
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (table, live, dead, vacuumed, off) in rows {
        let share = dead as f64 / (live + dead).max(1) as f64;
        let reset = if off {
            format!("ALTER TABLE {table} RESET (autovacuum_enabled); ")
        } else {
            String::new()
        };
        visit.found(
            Finding::new(Area::Health, Severity::Warning, "bloated-table", &table)
                .title(format!(
                    "{table} is {:.0} % dead rows, which every scan reads",
                    share * 100.0
                ))
                .evidence(format!(
                    "{dead} dead, {live} live; last vacuumed {}{}",
                    vacuumed.as_deref().unwrap_or("never"),
                    if off { "; autovacuum is off for it" } else { "" }
                ))
                .fix(format!("{reset}VACUUM (ANALYZE) {table};")),
        );
    }
    Ok(())
}

/// Statistics, plans and counts of what the role may not read are missing without a word; this is the word.
pub(super) async fn rights(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let (tables, sequences): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE CASE c.relkind WHEN 'S' THEN false ELSE NOT has_table_privilege(c.oid, 'SELECT') END), \
                count(*) FILTER (WHERE CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT, USAGE') END) \
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'",
    )
    .fetch_one(&mut visit.looking.pg)
    .await?;
    if tables > 0 {
        visit.unseen.push(format!(
            "tables: {tables} may not be read by this role, so their bloat, plans and missing indexes are not known; \
             grant pg_read_all_data (PostgreSQL 14) or SELECT"
        ));
    }
    if sequences > 0 {
        visit.unseen.push(format!(
            "sequences: where {sequences} stand is hidden from this role; grant pg_read_all_data or SELECT"
        ));
    }
    Ok(())
}

pub(super) async fn sizes(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    // Pages that the rows would need, by their average width, against pages that there are. Needs statistics.
    let rows: Vec<(String, i64, f64)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname), c.relpages::bigint, \
                c.relpages / greatest(c.reltuples * (w.width + 28) / (8192 - 24) \
                    * 100.0 / coalesce((SELECT (regexp_match(o, 'fillfactor=(\\d+)'))[1]::float8 \
                                        FROM unnest(c.reloptions) AS o WHERE o LIKE 'fillfactor=%'), 100), 1) \
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         CROSS JOIN LATERAL (SELECT sum(s.avg_width * (1 - s.null_frac))::float8 AS width, count(*) AS columns FROM pg_stats AS s \
                             WHERE s.schemaname = n.nspname AND s.tablename = c.relname) AS w \
         WHERE c.relkind = 'r' AND c.relpages >= 1000 AND c.reltuples > 0 AND w.columns > 0 \
           AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relpages > 3 * c.reltuples * (w.width + 28) / 8168 \
           AND NOT EXISTS (SELECT FROM pg_stat_user_tables AS t WHERE t.relid = c.oid AND t.n_dead_tup >= $1 \
                           AND t.n_dead_tup > 0.3 * (t.n_live_tup + t.n_dead_tup))",
    )
    .bind(DEAD)
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (table, pages, times) in rows {
        visit.found(
            Finding::new(Area::Health, Severity::Warning, "bloated-table", &table)
                .title(format!(
                    "{table} takes about {times:.1} times the space that its rows need"
                ))
                .evidence(format!(
                    "{} MiB, estimated from the rows' average width",
                    pages * 8 / 1024
                ))
                .fix(format!(
                    "pg_repack, or VACUUM (FULL) {table}; in a quiet hour: it locks the table while it runs"
                )),
        );
    }
    Ok(())
}

/// How far sequences have counted, if at all. Read from themselves: the view `pg_sequences` takes ROW EXCLUSIVE on each.
async fn reached(visit: &mut Visit<'_>, names: &[&str]) -> Result<Vec<Option<f64>>, AdvisorError> {
    let mut reached = Vec::with_capacity(names.len());
    for some in names.chunks(TOGETHER) {
        let each: Vec<_> = some
            .iter()
            .enumerate()
            .map(|(n, name)| format!("SELECT {n}, CASE WHEN is_called THEN last_value::float8 END FROM {name}"))
            .collect();
        let mut rows: Vec<(i32, Option<f64>)> = sqlx::query_as(AssertSqlSafe(each.join(" UNION ALL ")))
            .fetch_all(&mut visit.looking.pg)
            .await?;
        rows.sort_by_key(|(n, _)| *n);
        reached.extend(rows.into_iter().map(|(_, last)| last));
    }
    Ok(reached)
}

pub(super) async fn sequences(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    // A sequence may count further than the column that takes its numbers.
    let rows: Vec<(String, f64, Option<String>)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname), \
                least(s.seqmax::float8, CASE a.atttypid WHEN 'int4'::regtype THEN 2147483647 \
                                                WHEN 'int2'::regtype THEN 32767 ELSE s.seqmax::float8 END)::float8, \
                CASE WHEN a.attname IS NOT NULL THEN format('%s.%I', d.refobjid::regclass, a.attname) END \
         FROM pg_sequence AS s \
         JOIN pg_class AS c ON c.oid = s.seqrelid \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') \
             AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 \
         LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
         WHERE NOT s.seqcycle AND s.seqincrement > 0 AND c.relpersistence <> 't' \
             AND has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    let names: Vec<&str> = rows.iter().map(|(sequence, ..)| sequence.as_str()).collect();
    let reached = reached(visit, &names).await?;
    for ((sequence, limit, column), last) in rows.into_iter().zip(reached) {
        let Some(last) = last else { continue };
        let used = last / limit;
        let severity = match used {
            u if u >= 0.9 => Severity::Critical,
            u if u >= 0.75 => Severity::Warning,
            _ => continue,
        };
        let what = column.clone().unwrap_or_else(|| sequence.clone());
        let fix = match column.as_deref().and_then(|column| column.rsplit_once('.')) {
            Some((table, column)) => format!(
                "ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint; it rewrites the table: for a large one, add a \
                 bigint column, copy in batches and swap"
            ),
            None => format!("ALTER SEQUENCE {sequence} AS bigint MAXVALUE 9223372036854775807;"),
        };
        visit.found(
            Finding::new(Area::Health, severity, "sequence-exhaustion", &sequence)
                .title(format!("{what} runs out of numbers: inserts will fail"))
                .evidence(format!("{last:.0} of {limit:.0} used, {:.0} %", used * 100.0))
                .fix(fix),
        );
    }
    Ok(())
}

pub(super) async fn wraparound(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT datname::text, age(datfrozenxid)::bigint FROM pg_database WHERE datallowconn AND age(datfrozenxid) > 1000000000",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (database, age) in rows {
        let severity = if age > 1_600_000_000 {
            Severity::Critical
        } else {
            Severity::Warning
        };
        visit.found(
            Finding::new(Area::Health, severity, "wraparound", &database)
                .title(format!(
                    "database {database} nears the end of transaction numbers, where the server stops writing"
                ))
                .evidence(format!("age {age} of 2147483647"))
                .fix("VACUUM (FREEZE) its oldest tables; end old transactions and drop unused replication slots first"),
        );
    }
    Ok(())
}
