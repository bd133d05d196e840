//! Functions, quoting, comments, CTE names: what is easy to get wrong.

mod facts_table;

#[test]
fn facts() {
    facts_table::check(TABLE);
}

/// See `facts_table.rs` for the form.
const TABLE: &str = r##"
SELECT nextval('s')
    1 | read vol alone | SELECT
SELECT pg_notify('c', 'x')
    1 | read vol alone | SELECT
SELECT set_config('a', 'b', true)
    1 | read vol alone | SELECT
SELECT set_config('a', 'b', false)
    1 | read vol state | SELECT
SELECT set_config('a', 'b', $1)
    1 | read vol state | SELECT
SELECT pg_advisory_lock(1)
    1 | read vol state | SELECT
SELECT pg_advisory_xact_lock(1)
    1 | read vol alone | SELECT
SELECT pg_try_advisory_lock(1)
    1 | read vol state | SELECT
SELECT random()
    1 | read vol alone | SELECT
SELECT gen_random_uuid()
    1 | read vol alone | SELECT
SELECT "nextval"('s')
    1 | read vol alone | SELECT
SELECT public.lower(a) FROM t
    1 | read r=t opaque alone | SELECT t
SELECT my_function(1)
    1 | read opaque alone | SELECT
SELECT schema.nextval('x')
    1 | read vol alone | SELECT
SELECT * FROM dblink('x', 'y') AS t(a int)
    1 | read all vol alone | SELECT
SELECT pg_sleep_for('1 s')
    1 | read vol alone | SELECT
SELECT txid_current()
    1 | read vol alone | SELECT
SELECT query_to_xml('select 1', true, true, '')
    1 | read all vol alone | SELECT
SELECT 'now'::timestamp
    1 | read time pure alone | SELECT
SELECT * FROM t WHERE d = DATE 'today'
    1 | read r=t time pure alone | SELECT t
SELECT current_setting('x'), pg_backend_pid(), inet_server_addr()
    1 | read sess pure alone | SELECT
SELECT pg_is_in_recovery()
    1 | read vol alone | SELECT
SELECT * FROM pg_stat_activity
    1 | read r=pg_stat_activity sess pure alone | SELECT pg_stat_activity
SELECT * FROM information_schema.tables
    1 | read r=information_schema.tables sess pure alone | SELECT information_schema.tables
;;
    0 | read pure alone |
-- only a comment
    0 | read pure alone |
/* a /* nested */ comment */
    0 | read pure alone |
/* a /* nested */ comment */ SELECT 1 -- x
    1 | read pure alone | SELECT
SELECT 'DELETE FROM t; DROP TABLE u'
    1 | read pure alone | SELECT
SELECT E'it\'s; DELETE FROM t' FROM u
    1 | read r=u pure alone | SELECT u
SELECT $$it's; DELETE FROM t$$ FROM u
    1 | read r=u pure alone | SELECT u
SELECT $a$ $b$ ; $a$ FROM u
    1 | read r=u pure alone | SELECT u
SELECT 'unterminated FROM t
    1 | unknown all lock vol opaque time sess state open | OTHER
SELECT "unterminated FROM t
    1 | unknown all lock vol opaque time sess state open | OTHER
SELECT $$ unterminated
    1 | unknown all lock vol opaque time sess state open | OTHER
/* unterminated SELECT 1
    1 | unknown all lock vol opaque time sess state open | OTHER
WITH t AS (SELECT * FROM u) SELECT * FROM t
    1 | read r=u pure alone | SELECT u
WITH t AS (SELECT * FROM t) SELECT * FROM t
    1 | read r=t pure alone | SELECT t
WITH RECURSIVE t AS (SELECT * FROM t) SELECT * FROM t
    1 | read pure alone | SELECT
WITH a AS (SELECT * FROM b), b AS (SELECT * FROM c) SELECT * FROM a, b
    1 | read r=b,c pure alone | SELECT b c
WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a
    1 | read pure alone | SELECT
WITH t AS (SELECT 1) SELECT * FROM public.t
    1 | read r=public.t pure alone | SELECT public.t
WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t
    1 | write w=t alone | SELECT INSERT t SELECT
WITH "T" AS (SELECT 1) SELECT * FROM t, "T", T
    1 | read r=t pure alone | SELECT t
SELECT (WITH x AS (SELECT 1) SELECT * FROM x), y.* FROM x AS y
    1 | read r=x pure alone | SELECT x
SELECT * FROM Orders O, "Orders", oRdErS
    1 | read r=Orders,orders pure alone | SELECT orders Orders
SELECT * FROM t; DELETE FROM u; garbage here
    3 | unknown r=t w=u all lock vol opaque time sess state open | SELECT t DELETE u OTHER
INSERT INTO t VALUES (nextval('s'), f(1)) RETURNING g(id)
    1 | write w=t vol opaque alone | INSERT t
SELECT 1; SET x = 1; SELECT 2
    3 | session state | SELECT SET SELECT
SELEC 1
    1 | unknown all lock vol opaque time sess state open | OTHER
password123 hunter2
    1 | unknown all lock vol opaque time sess state open | OTHER
SELECT * FROM f((SELECT a FROM t))
    1 | read r=t opaque alone | SELECT t
SELECT * FROM t WHERE a IN (SELECT b FROM u WHERE EXISTS (SELECT 1 FROM v WHERE v.x = u.x))
    1 | read r=t,u,v pure alone | SELECT t u v
SELECT a FROM t UNION ALL SELECT b FROM u UNION SELECT c FROM (SELECT * FROM v) w
    1 | read r=t,u,v pure alone | SELECT t u v
SELECT 1 FROM t WHERE a = ?
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT :name FROM t
    1 | read r=t pure alone | SELECT t
SELECT * FROM t WHERE a::date = current_date AND b > $1
    1 | read r=t time pure alone | SELECT t
SELECT * FROM t ORDER BY random() LIMIT 1
    1 | read r=t vol alone | SELECT t
SELECT * FROM t HAVING nextval('s') > 1
    1 | read r=t vol alone | SELECT t
SELECT * FROM t JOIN u ON f(t.a)
    1 | read r=t,u opaque alone | SELECT t u
SELECT count(*) FILTER (WHERE f(a)) FROM t
    1 | read r=t opaque alone | SELECT t
SELECT sum(a) OVER (PARTITION BY f(a)) FROM t
    1 | read r=t opaque alone | SELECT t
SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY f(a))
    1 | read r=t opaque alone | SELECT t
SELECT a FROM t GROUP BY f(a)
    1 | read r=t opaque alone | SELECT t
SELECT a FROM t LIMIT f(1)
    1 | read r=t opaque alone | SELECT t
SELECT a FROM t OFFSET f(1)
    1 | read r=t opaque alone | SELECT t
SELECT DISTINCT ON (f(a)) a FROM t
    1 | read r=t opaque alone | SELECT t
SELECT CASE WHEN f(a) THEN 1 END FROM t
    1 | read r=t opaque alone | SELECT t
SELECT ARRAY[f(a)], (f(a))::int, a[f(1)], ROW(f(1)) FROM t
    1 | read r=t opaque alone | SELECT t
SELECT a BETWEEN f(1) AND 2, a IN (1, f(2)), a LIKE f(3) FROM t
    1 | read r=t opaque alone | SELECT t
SELECT * FROM t TABLESAMPLE bernoulli (f(1)) REPEATABLE (1)
    1 | read r=t opaque alone | SELECT t
UPDATE t SET a = f(1)
    1 | write w=t opaque alone | UPDATE t
INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = f(1)
    1 | write w=t opaque alone | INSERT t
DELETE FROM t WHERE f(a) RETURNING *
    1 | write w=t opaque alone | DELETE t
SELECT (f(x)).* FROM t
    1 | read r=t opaque alone | SELECT t
SELECT a[f(1)].* FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT json_object(f(1) : 2)
    1 | read opaque alone | SELECT
SELECT * FROM share of, u
    1 | read r=share,u pure alone | SELECT share u
SELECT exclude no FROM t
    1 | read r=t pure alone | SELECT t
SELECT substring(a for key) FROM t
    1 | read r=t pure alone | SELECT t
SELECT * FROM t WHERE NOT document
    1 | read r=t pure alone | SELECT t
SELECT * INTO pg_temp.x FROM t
    1 | session r=t w=pg_temp.x state | SELECT pg_temp.x t
SELECT t.only, t.table, t.key FROM t
    1 | read r=t pure alone | SELECT t
WITH x(a, b) AS (VALUES (1, 2)), y AS (TABLE x) SELECT * FROM y JOIN f() AS (c int) ON true
    1 | read opaque alone | SELECT
SELECT a FROM t WHERE b IN (TABLE u) AND c = ALL (TABLE v)
    1 | read r=t,u,v pure alone | SELECT t u v
WITH x AS (SELECT 1) SELECT * FROM (WITH x AS (SELECT * FROM a) SELECT * FROM x) y, x
    1 | read r=a pure alone | SELECT a
WITH x AS (WITH y AS (SELECT * FROM a) SELECT * FROM y) SELECT * FROM x, y
    1 | read r=a,y pure alone | SELECT a y
SELECT * FROM t; SELECT pg_advisory_lock(1); DECLARE c CURSOR WITH HOLD FOR SELECT 1
    3 | session r=t vol state | SELECT t SELECT DECLARE SELECT
SELECT * FROM ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_cut_here
    1 | read r=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789_ pure alone | SELECT abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789_
"##;
