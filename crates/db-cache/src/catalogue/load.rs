//! Reads the catalogue from the server, in a few statements over one connection.

use super::{Catalogue, Function, Kind, Relation, Volatility};
use db_core::{Error, Result};
use sqlx::{PgConnection, Row, postgres::PgRow};

/// A schema with more relations, or more functions, is not taken in: every statement is opaque then.
const MOST: usize = 50_000;

/// Changes whenever something changes that decides what depends on what, or what a query means. A row that changes
/// gets a transaction id that no other has; a row that goes changes the count.
pub(crate) const STAMP: &str = "SELECT concat_ws(' ', \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_class \
       WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'), \
    (SELECT concat(count(*), ':', sum(a.xmin::text::numeric)) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid \
       WHERE a.attrelid >= 16384 AND a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relpersistence <> 't'), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_proc WHERE oid >= 16384), \
    (SELECT concat(count(*), ':', sum(t.xmin::text::numeric)) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid \
       WHERE c.relpersistence <> 't'), \
    (SELECT concat(count(*), ':', sum(r.xmin::text::numeric)) FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class \
       WHERE r.oid >= 16384 AND c.relpersistence <> 't'), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_inherits), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_policy), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_constraint WHERE contype = 'f'), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_namespace \
       WHERE oid >= 16384 AND nspname !~ '^pg_(temp|toast)'), \
    (SELECT concat(count(*), ':', sum(xmin::text::numeric)) FROM pg_db_role_setting))";

/// What an answer depends on that is the session's: who asks, where names are looked up, and how values are written.
const SESSION: &str = "SELECT concat_ws(E'\\n', current_database(), session_user, current_user, \
    array_to_string(current_schemas(true), ','), \
    (SELECT string_agg(concat(name, '=', setting), E'\\n' ORDER BY name) FROM pg_settings WHERE name IN ( \
       'TimeZone', 'timezone_abbreviations', 'DateStyle', 'IntervalStyle', 'extra_float_digits', 'bytea_output', \
       'lc_monetary', 'lc_numeric', 'lc_time', 'xmlbinary', 'xmloption', 'row_security', 'client_encoding', \
       'default_text_search_config', 'array_nulls', 'standard_conforming_strings', 'transform_null_equals', \
       'quote_all_identifiers') OR (name LIKE '%.%' AND source <> 'default')))";

const RELATIONS: &str = "SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, \
    CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END, \
    CASE WHEN c.relrowsecurity THEN (SELECT array_agg(pg_get_expr(p.polqual, p.polrelid)) FROM pg_policy AS p \
      WHERE p.polrelid = c.oid AND p.polqual IS NOT NULL) END, \
    EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid JOIN pg_namespace AS fn ON fn.oid = f.pronamespace \
      WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND (fn.nspname, f.proname) <> ('db_cache', 'changed')) \
    OR EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') \
    OR EXISTS (SELECT FROM pg_attrdef AS d JOIN pg_depend AS x ON x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid \
      JOIN pg_proc AS f ON x.refclassid = 'pg_proc'::regclass AND f.oid = x.refobjid \
      WHERE d.adrelid = c.oid AND f.oid >= 16384 AND f.provolatile = 'v'), \
    EXISTS (SELECT FROM pg_proc AS f WHERE f.pronargs = 1 AND f.proargtypes[0] = c.reltype AND f.provolatile <> 'i'), \
    EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid JOIN pg_namespace AS fn ON fn.oid = f.pronamespace \
      WHERE t.tgrelid = c.oid AND (fn.nspname, f.proname) = ('db_cache', 'changed') AND t.tgenabled = 'A') \
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' \
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') LIMIT $1";

const EDGES: &str = "SELECT 'i', inhparent::int8, inhrelid::int8 FROM pg_inherits \
    UNION SELECT 'f', confrelid::int8, conrelid::int8 FROM pg_constraint \
      WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))";

const FUNCTIONS: &str = "SELECT p.oid::int8, n.nspname::text, p.proname::text, \
    CASE WHEN p.prokind = 'f' THEN p.provolatile::text ELSE 's' END, \
    CASE WHEN l.lanname = 'sql' AND p.prokind = 'f' AND p.proconfig IS NULL \
      THEN coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) END, \
    EXISTS (SELECT FROM pg_proc AS b WHERE b.pronamespace = 'pg_catalog'::regnamespace AND b.proname = p.proname) \
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_language AS l ON l.oid = p.prolang \
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') LIMIT $1";

impl Catalogue {
    /// Reads what `conn` sees.
    pub(crate) async fn load(conn: &mut PgConnection) -> Result<Self> {
        let conn = &mut *conn;
        // First: what changes during the rest then shows as changed at the next comparison.
        let stamp: String = sqlx::query_scalar(STAMP).fetch_one(&mut *conn).await?;
        let path: Vec<String> = sqlx::query_scalar("SELECT unnest(current_schemas(true))::text")
            .fetch_all(&mut *conn)
            .await?;
        let session: String = sqlx::query_scalar(SESSION).fetch_one(&mut *conn).await?;
        let most = i64::try_from(MOST).unwrap_or(i64::MAX) + 1;
        let relations = sqlx::query(RELATIONS).bind(most).fetch_all(&mut *conn).await?;
        let functions = sqlx::query(FUNCTIONS).bind(most).fetch_all(&mut *conn).await?;
        let edges = sqlx::query(EDGES).fetch_all(&mut *conn).await?;
        let mut catalogue = Self {
            search_path: path.into_iter().map(String::into_boxed_str).collect(),
            scope: format!("{stamp}\n{session}").into_bytes().into(),
            stamp: stamp.into(),
            ..Self::default()
        };
        if relations.len() > MOST || functions.len() > MOST {
            tracing::warn!(
                most = MOST,
                "the schema is too large to be known: only tagged answers are cached"
            );
            return Ok(catalogue);
        }
        for row in &relations {
            catalogue.add_relation(row)?;
        }
        for row in &functions {
            catalogue.add_function(row)?;
        }
        for row in &edges {
            catalogue.add_edge(row)?;
        }
        Ok(catalogue)
    }

    fn add_relation(&mut self, row: &PgRow) -> Result<()> {
        let oid = oid(row, 0)?;
        let kind = match row.try_get::<&str, _>(3)? {
            "v" => Kind::View,
            "f" | "S" => Kind::Elsewhere,
            _ => Kind::Table,
        };
        let policies: Option<Vec<String>> = row.try_get(5)?;
        let relation = Relation {
            schema: row.try_get::<&str, _>(1)?.into(),
            kind,
            definition: row
                .try_get::<Option<&str>, _>(4)?
                .map(|text| text.trim_end_matches(';').into()),
            policies: policies
                .into_iter()
                .flatten()
                .map(|condition| format!("SELECT 1 WHERE {condition}").into())
                .collect(),
            runs_code: row.try_get(6)?,
            computed: row.try_get(7)?,
            watched: row.try_get(8)?,
            parents: Vec::new(),
            children: Vec::new(),
            cascades: Vec::new(),
            follows: Vec::new(),
        };
        self.by_name
            .entry(row.try_get::<&str, _>(2)?.into())
            .or_default()
            .push(oid);
        self.relations.insert(oid, relation);
        Ok(())
    }

    fn add_function(&mut self, row: &PgRow) -> Result<()> {
        let volatility = match row.try_get::<&str, _>(3)? {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        };
        if volatility != Volatility::Immutable && row.try_get(5)? {
            self.shadows.insert(row.try_get::<&str, _>(2)?.into());
        }
        let function = Function {
            oid: oid(row, 0)?,
            schema: row.try_get::<&str, _>(1)?.into(),
            volatility,
            body: row.try_get::<Option<&str>, _>(4)?.map(plain_body),
        };
        self.functions
            .entry(row.try_get::<&str, _>(2)?.into())
            .or_default()
            .push(function);
        Ok(())
    }

    fn add_edge(&mut self, row: &PgRow) -> Result<()> {
        let (parent, child) = (oid(row, 1)?, oid(row, 2)?);
        let inherits = row.try_get::<&str, _>(0)? == "i";
        if let Some(relation) = self.relations.get_mut(&parent) {
            if inherits {
                relation.children.push(child);
            } else {
                relation.cascades.push(child);
            }
        }
        if let Some(relation) = self.relations.get_mut(&child) {
            if inherits {
                relation.parents.push(parent);
            } else {
                relation.follows.push(parent);
            }
        }
        Ok(())
    }
}

fn oid(row: &PgRow, column: usize) -> Result<u32> {
    let wide: i64 = row.try_get(column)?;
    u32::try_from(wide).map_err(|_| Error::Client(sqlx::Error::Decode("an OID has 32 bits".into())))
}

/// The statements of an SQL function, also of one with a body in standard form.
fn plain_body(body: &str) -> Box<str> {
    let text = body.trim().trim_end_matches(';').trim_end();
    if let Some(expression) = text.strip_prefix("RETURN ") {
        return format!("SELECT {expression}").into();
    }
    let inner = text
        .strip_prefix("BEGIN ATOMIC")
        .and_then(|text| text.strip_suffix("END"));
    inner.map_or(text, |inner| inner.trim().trim_end_matches(';')).into()
}
