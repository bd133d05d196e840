//! Everything that might write, explained in every way: the database is the same afterwards.

use anyhow::Context;
use db_advisor::{AdvisorError, ExplainConfig, Explainer, Looking};
use db_testkit::Postgres;
use sqlx::PgConnection;

use crate::prove::{Verdict, findings::Findings};

const SCHEMA: &str = "
CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t SELECT i, i FROM generate_series(1, 100) AS i;
CREATE TABLE log (at text);
CREATE SEQUENCE s;
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN INSERT INTO log VALUES ('volatile'); RETURN 1; END $$;
CREATE FUNCTION lies() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN INSERT INTO log VALUES ('immutable'); RETURN 1; END $$;
CREATE FUNCTION lies(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN INSERT INTO log VALUES ('operator'); RETURN true; END $$;
CREATE FUNCTION lies(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN INSERT INTO log VALUES ('operator'); RETURN true; END $$;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = lies);
CREATE VIEW sees AS SELECT id, writes() AS w FROM t;
CREATE VIEW seems AS SELECT id FROM t WHERE n = lies();
CREATE DOMAIN checked AS int CHECK (lies(VALUE));
CREATE TABLE guarded (id int);
INSERT INTO guarded VALUES (1);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON guarded USING (lies(id));
CREATE PROCEDURE does() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('procedure'); COMMIT; END $$;
";

/// Each tries to change something, or to make somebody else do it.
const CORPUS: &[&str] = &[
    "INSERT INTO t VALUES (1000, 1)",
    "INSERT INTO t SELECT id + 1000, n FROM t RETURNING id",
    "UPDATE t SET n = 0",
    "UPDATE t SET n = $1 WHERE id = $2",
    "DELETE FROM t",
    "DELETE FROM t WHERE id = $1 RETURNING n",
    "MERGE INTO t USING log ON false WHEN NOT MATCHED THEN DO NOTHING",
    "TRUNCATE t",
    "DROP TABLE t",
    "CREATE TABLE x (n int)",
    "CREATE TABLE x AS SELECT * FROM t",
    "SELECT * INTO x FROM t",
    "ALTER TABLE t ADD c int",
    "COPY t FROM '/dev/null'",
    "COPY (DELETE FROM t RETURNING *) TO STDOUT",
    "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
    "WITH a AS (SELECT 1), b AS (INSERT INTO log VALUES ('cte') RETURNING 1) SELECT * FROM a, b",
    "WITH RECURSIVE r AS (SELECT 1), w AS (UPDATE t SET n = -1 RETURNING 1) SELECT * FROM r",
    "SELECT writes()",
    "SELECT * FROM t WHERE n = writes()",
    "SELECT lies()",
    "SELECT * FROM t WHERE n = lies()",
    "SELECT * FROM t WHERE n === 1",
    "SELECT 1 === 1",
    "SELECT 1::checked",
    "SELECT CAST(1 AS checked)",
    "SELECT * FROM sees",
    "SELECT * FROM seems",
    "SELECT * FROM guarded",
    "SELECT nextval('s')",
    "SELECT setval('s', 77)",
    "SELECT pg_advisory_lock(1)",
    "SELECT set_config('work_mem', '1MB', false)",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'witness'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'witness'",
    "SELECT lo_create(4711)",
    "SELECT query_to_xml('INSERT INTO log VALUES (''xml'')', true, true, '')",
    "SELECT pg_notify('x', 'y')",
    "SELECT * FROM t FOR UPDATE",
    "LOCK TABLE t",
    "VACUUM t",
    "ANALYZE t",
    "SET work_mem = '1MB'",
    "BEGIN",
    "COMMIT",
    "COMMIT; DELETE FROM t",
    "ROLLBACK; DELETE FROM t; BEGIN",
    "SELECT 1; DELETE FROM t",
    "SELECT 1;DELETE FROM t;--",
    "SELECT 1) TO STDOUT; DELETE FROM t; --",
    "SELECT 1 /* ; */; DELETE FROM t",
    "SELECT 1 -- \n; DELETE FROM t",
    "SELECT $x$;$x$; DELETE FROM t",
    "SELECT E'\\'; DELETE FROM t; --'",
    "SELECT '\\'; DELETE FROM t; --'",
    "/* SELECT 1 */ DELETE FROM t",
    ";DELETE FROM t",
    "(DELETE FROM t)",
    "ANALYZE DELETE FROM t",
    "ANALYZE) DELETE FROM t",
    "EXPLAIN ANALYZE DELETE FROM t",
    "EXPLAIN (ANALYZE) INSERT INTO log VALUES ('explain')",
    "(ANALYZE) DELETE FROM t",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL does()",
    "PREPARE x AS DELETE FROM t",
    "EXECUTE db_stack_plan",
    "DECLARE c CURSOR FOR SELECT writes()",
    "NOTIFY x",
    "SELECT 1 FROM t, LATERAL (SELECT writes()) AS w",
    "SELECT (SELECT writes())",
    "VALUES (writes())",
    "TABLE sees",
    "SELECT * FROM t ORDER BY writes()",
    "SELECT * FROM t LIMIT writes()",
    "SELECT count(*) FILTER (WHERE writes() = 1) FROM t",
    "SELECT CASE WHEN true THEN writes() END",
    "SELECT public.\"writes\"()",
    "SELECT array_agg(lies()) FROM t",
    "INSERT INTO t VALUES (lies() + 1000, 1)",
    "UPDATE t SET n = writes()",
    "DELETE FROM t USING (SELECT writes()) AS w",
    "INSERT INTO sees DEFAULT VALUES",
    "SELECT \u{0} DELETE FROM t",
    "",
    "   ",
    "nonsense",
];

/// What real statements look like: these must go through.
const READS: &[&str] = &[
    "SELECT * FROM t WHERE id = $1",
    "SELECT n, count(*) FROM t GROUP BY n ORDER BY 2 DESC LIMIT $1",
    "WITH a AS (SELECT * FROM t) SELECT * FROM a JOIN t USING (id)",
    "VALUES (1, 2)",
];

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mixes = if quick { 400 } else { 20_000 };
    let server = Postgres::start().await?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut admin).await.context("the schema")?;
    let before = state(&mut admin).await?;
    let mut findings = Findings::new();
    let mut explainer = Explainer::new(ExplainConfig {
        enabled: true,
        per_minute: u32::MAX,
        writes: true,
    });
    let mut looking = Looking::connect(&server.url()).await?;
    let (mut planned, mut refused, mut rejected) = (0_u32, 0_u32, 0_u32);
    let mut mix = fastrand::Rng::with_seed(10);
    let mixed: Vec<String> = (0..mixes).map(|_| mixed(&mut mix)).collect();
    for text in CORPUS.iter().copied().chain(mixed.iter().map(String::as_str)) {
        for analyze in [false, true] {
            let outcome = if analyze {
                explainer.analyze(&mut looking, text).await
            } else {
                explainer.plan(&mut looking, text).await
            };
            match outcome {
                Ok(_) => planned += 1,
                Err(AdvisorError::Refused(_)) => refused += 1,
                Err(AdvisorError::Sql(sqlx::Error::Database(_))) => rejected += 1,
                Err(error) => return Err(error).context(text.to_owned()),
            }
        }
    }
    let mut read = 0;
    for text in READS {
        read += usize::from(explainer.plan(&mut looking, text).await.is_ok());
    }
    let analyzed = explainer
        .analyze(&mut looking, "SELECT count(*) FROM t WHERE n > 5")
        .await?;
    let after = state(&mut admin).await?;
    findings.note("texts", CORPUS.len() + mixed.len());
    findings.note("refused before the server saw them", refused);
    findings.note("rejected by the server", rejected);
    findings.note("planned without running", planned);
    findings.expect("the database is unchanged", before == after, true, before == after);
    findings.expect("reads that were planned", read, READS.len(), read == READS.len());
    findings.expect(
        "a proven read was measured",
        analyzed.execution_ms.is_some(),
        true,
        analyzed.execution_ms.is_some(),
    );
    looking.close().await;
    Ok(findings.verdict())
}

/// Pieces of the corpus joined in ways that a recorded text might be.
fn mixed(random: &mut fastrand::Rng) -> String {
    let joints = [
        "; ",
        " UNION ALL ",
        ") ",
        " /* ",
        " */ ",
        " -- \n",
        " AND EXISTS (",
        "\n;\n",
        " RETURNING ",
        "'",
        "$$",
        "",
    ];
    let mut text = String::new();
    for _ in 0..random.usize(1..4) {
        let piece = CORPUS[random.usize(..CORPUS.len())];
        let cut = piece
            .char_indices()
            .nth(random.usize(..piece.len().max(1)))
            .map_or(piece.len(), |(at, _)| at);
        text.push_str(if random.bool() { piece } else { &piece[..cut] });
        text.push_str(joints[random.usize(..joints.len())]);
    }
    text
}

/// Everything that any text of the corpus might have changed.
async fn state(admin: &mut PgConnection) -> anyhow::Result<String> {
    let state = sqlx::query_scalar(
        "SELECT concat_ws(' ', (SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t), (SELECT count(*) FROM log), \
         (SELECT last_value || is_called::text FROM s), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), \
         (SELECT count(*) FROM pg_attribute), (SELECT count(*) FROM pg_largeobject_metadata), \
         (SELECT count(*) FROM guarded), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'))",
    );
    Ok(state.fetch_one(admin).await?)
}
