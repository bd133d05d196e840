//! Indexes that are doubled, unused or broken, and foreign keys without one.

use super::Visit;
use crate::{AdvisorError, Area, Finding, Severity};

/// Smaller indexes cost nothing worth telling.
const BYTES: i64 = 128 * 1024;
/// A table with fewer rows is scanned whatever there is.
const ROWS: f32 = 1_000.0;

#[derive(sqlx::FromRow)]
struct Index {
    name: String,
    table_name: String,
    /// Everything that makes two indexes the same but their names.
    same: String,
    key: String,
    valid: bool,
    uniq: bool,
    constrains: bool,
    /// Whether a foreign key looks for its children by it, which no plan and no counter of scans need show.
    serves: bool,
    scans: i64,
    bytes: i64,
    writes: i64,
    table_scans: i64,
}

pub(super) async fn useless(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let indexes: Vec<Index> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, format('%I.%I', n.nspname, t.relname) AS table_name, \
                concat_ws('|', i.indrelid, am.amname, i.indkey, i.indclass, i.indcollation, i.indoption, \
                          i.indexprs::text, i.indpred::text) AS same, \
                concat_ws('|', i.indrelid, am.amname, i.indkey) AS key, i.indisvalid AS valid, \
                i.indisunique AS uniq, \
                EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid) OR i.indisprimary \
                    OR i.indisreplident OR i.indisexclusion AS constrains, \
                EXISTS (SELECT FROM pg_constraint AS k WHERE k.contype = 'f' AND k.conrelid = i.indrelid \
                        AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey \
                        AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey) AS serves, \
                coalesce(s.idx_scan, 0)::bigint AS scans, c.relpages::bigint * 8192 AS bytes, \
                (u.n_tup_ins + u.n_tup_upd + u.n_tup_del)::bigint AS writes, \
                (u.seq_scan + coalesce(u.idx_scan, 0))::bigint AS table_scans \
         FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_am AS am ON am.oid = c.relam \
         JOIN pg_stat_user_tables AS u ON u.relid = t.oid LEFT JOIN pg_stat_user_indexes AS s ON s.indexrelid = i.indexrelid \
         ORDER BY n.nspname, t.relname, (i.indisprimary OR i.indisunique) DESC, c.relname",
    )
    .fetch_all(&mut visit.looking.pg)
    .await?;
    let mut told = Vec::new();
    for (at, index) in indexes.iter().enumerate() {
        if !index.valid {
            told.push(&index.name);
            visit.found(
                Finding::new(Area::Indexes, Severity::Warning, "invalid-index", &index.name)
                    .title(format!(
                        "{} is not valid: every write pays for it and no read uses it",
                        index.name
                    ))
                    .evidence("a CREATE INDEX CONCURRENTLY or REINDEX did not finish, or is still running")
                    .fix(format!(
                        "REINDEX INDEX CONCURRENTLY {}; or DROP INDEX CONCURRENTLY it",
                        index.name
                    )),
            );
            continue;
        }
        let twin = indexes[..at]
            .iter()
            .find(|other| other.same == index.same && other.valid && (!index.uniq || other.uniq));
        if let Some(twin) = twin.filter(|_| !index.constrains) {
            told.push(&index.name);
            visit.found(
                Finding::new(Area::Indexes, Severity::Warning, "duplicate-index", &index.name)
                    .title(format!("{} is the same as {}", index.name, twin.name))
                    .evidence(format!(
                        "{} KiB on {}, {} writes kept both up",
                        index.bytes / 1024,
                        index.table_name,
                        index.writes
                    ))
                    .fix(format!("DROP INDEX CONCURRENTLY {};", index.name)),
            );
        }
    }
    for index in &indexes {
        let kept = index.uniq || index.constrains || index.serves;
        let unused = index.valid && !kept && index.scans == 0 && index.bytes >= BYTES;
        // On a table that nobody has read since the figures began, nothing is known.
        let told = told.contains(&&index.name) || indexes.iter().any(|o| o.name != index.name && o.key == index.key);
        if unused && !told && index.table_scans >= 100 {
            visit.found(
                Finding::new(Area::Indexes, Severity::Warning, "unused-index", &index.name)
                    .title(format!("{} has never been used since the statistics began", index.name))
                    .evidence(format!(
                        "0 scans of it, {} of its table; {} KiB, {} writes kept it up",
                        index.table_scans,
                        index.bytes / 1024,
                        index.writes
                    ))
                    .fix(format!(
                        "look at the standbys too, whose reads count there; then DROP INDEX CONCURRENTLY {};",
                        index.name
                    )),
            );
        }
    }
    Ok(())
}

pub(super) async fn foreign_keys(visit: &mut Visit<'_>) -> Result<(), AdvisorError> {
    let rows: Vec<(String, String, String, String, f32)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, t.relname), k.conname::text, k.confrelid::regclass::text, \
                (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) \
                 FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place) \
                 JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum), t.reltuples \
         FROM pg_constraint AS k JOIN pg_class AS t ON t.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = t.relnamespace \
         WHERE k.contype = 'f' AND t.relkind IN ('r', 'p') AND t.reltuples >= $1 AND NOT EXISTS ( \
             SELECT FROM pg_index AS i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL \
             AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey \
             AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey)",
    )
    .bind(ROWS)
    .fetch_all(&mut visit.looking.pg)
    .await?;
    for (table, key, parent, columns, rows) in rows {
        visit.found(
            Finding::new(
                Area::Indexes,
                Severity::Warning,
                "foreign-key-without-index",
                format!("{table}.{key}"),
            )
            .title(format!("each DELETE or key change in {parent} reads all of {table}"))
            .evidence(format!(
                "foreign key {key} ({columns}), {rows:.0} rows, no index begins with it"
            ))
            .fix(format!("CREATE INDEX CONCURRENTLY ON {table} ({columns});")),
        );
    }
    Ok(())
}
