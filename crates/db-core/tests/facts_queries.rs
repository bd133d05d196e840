//! Queries and changes of rows, in every form that PostgreSQL has for them.

mod facts_table;

#[test]
fn facts() {
    facts_table::check(TABLE);
}

/// See `facts_table.rs` for the form.
const TABLE: &str = r##"
SELECT * FROM a FOR NO KEY UPDATE
    1 | read r=a lock alone | SELECT a
SELECT * FROM a FOR KEY SHARE
    1 | read r=a lock alone | SELECT a
SELECT * FROM a FOR UPDATE OF a, b SKIP LOCKED
    1 | read r=a lock alone | SELECT a
SELECT * FROM a FOR UPDATE OF a NOWAIT
    1 | read r=a lock alone | SELECT a
SELECT * FROM a FOR UPDATE FOR SHARE
    1 | read r=a lock alone | SELECT a
SELECT * FROM ONLY a
    1 | read r=a pure alone | SELECT a
SELECT * FROM a *
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT * FROM ONLY (a)
    1 | read r=a pure alone | SELECT a
UPDATE ONLY a SET x = 1
    1 | write w=a alone | UPDATE a
DELETE FROM ONLY a
    1 | write w=a alone | DELETE a
INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1)
    1 | write w=t alone | INSERT t
INSERT INTO t (a) OVERRIDING USER VALUE SELECT 1
    1 | write w=t alone | INSERT t SELECT
INSERT INTO t AS x (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = EXCLUDED.a WHERE x.a > 1 RETURNING *
    1 | write w=t alone | INSERT t
INSERT INTO t (a) VALUES (1) ON CONFLICT (lower(a)) DO NOTHING
    1 | write w=t alone | INSERT t
INSERT INTO t (a) VALUES (1) ON CONFLICT (a) WHERE b > 1 DO NOTHING
    1 | write w=t alone | INSERT t
INSERT INTO t (a) VALUES (1) ON CONFLICT (a, b) DO UPDATE SET (a, b) = (EXCLUDED.a, 2)
    1 | write w=t alone | INSERT t
INSERT INTO t (a[1], b.c) VALUES (1, 2)
    1 | unknown all lock vol opaque time sess state open | INSERT
INSERT INTO t DEFAULT VALUES
    1 | write w=t alone | INSERT t
INSERT INTO t TABLE s
    1 | write r=s w=t alone | INSERT t SELECT s
INSERT INTO t (a) VALUES (DEFAULT), (2)
    1 | write w=t alone | INSERT t
WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x
    1 | write w=t alone | SELECT INSERT t SELECT
INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x
    1 | write w=t alone | INSERT t SELECT
SELECT * FROM ROWS FROM (generate_series(1,2), f(3)) AS x
    1 | unknown all lock vol opaque time sess state open | SELECT
WITH RECURSIVE x AS (SELECT 1 UNION ALL SELECT 2) SEARCH DEPTH FIRST BY a SET b SELECT * FROM x
    1 | unknown all lock vol opaque time sess state open | WITH
WITH RECURSIVE x AS (SELECT 1 UNION ALL SELECT 2) CYCLE a SET b USING c SELECT * FROM x
    1 | unknown all lock vol opaque time sess state open | WITH
WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x
    1 | read pure alone | SELECT
WITH x AS NOT MATERIALIZED (SELECT 1) SELECT * FROM x
    1 | read pure alone | SELECT
SELECT a OPERATOR(pg_catalog.+) b FROM t
    1 | read r=t pure alone | SELECT t
SELECT a COLLATE "C" FROM t
    1 | read r=t pure alone | SELECT t
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM t
    1 | read r=t pure alone | SELECT t
SELECT count(*) FILTER (WHERE x > 1) OVER (PARTITION BY y ORDER BY z ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM t
    1 | read r=t pure alone | SELECT t
SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY b)
    1 | read r=t pure alone | SELECT t
SELECT * FROM t LIMIT ALL
    1 | read r=t pure alone | SELECT t
SELECT * FROM t LIMIT 10 OFFSET 5
    1 | read r=t pure alone | SELECT t
SELECT * FROM t OFFSET 5 LIMIT 10
    1 | read r=t pure alone | SELECT t
SELECT * FROM t FETCH FIRST 5 ROWS ONLY
    1 | read r=t pure alone | SELECT t
SELECT * FROM t FETCH FIRST ROW WITH TIES
    1 | read r=t pure alone | SELECT t
SELECT DISTINCT ON (a, b) * FROM t
    1 | read r=t pure alone | SELECT t
UPDATE t SET (a, b) = (SELECT 1, 2)
    1 | write w=t alone | UPDATE t SELECT
UPDATE t SET (a, b) = ROW(1, 2)
    1 | write w=t alone | UPDATE t
UPDATE t SET a[1] = 2
    1 | unknown all lock vol opaque time sess state open | UPDATE
UPDATE t SET a.b = 2
    1 | write w=t alone | UPDATE t
UPDATE t AS x SET a = DEFAULT FROM u JOIN v USING (id) WHERE x.id = u.id RETURNING x.*
    1 | write r=u,v w=t alone | UPDATE t u v
UPDATE t SET a = 1 WHERE CURRENT OF c
    1 | write w=t alone | UPDATE t
DELETE FROM t WHERE CURRENT OF c
    1 | write w=t alone | DELETE t
DELETE FROM t USING a, b WHERE t.id = a.id RETURNING t.id
    1 | write r=a,b w=t alone | DELETE t a b
DELETE FROM t AS x USING a WHERE x.id = a.id
    1 | write r=a w=t alone | DELETE t a
DELETE FROM t x WHERE x.id = 1
    1 | write w=t alone | DELETE t
SELECT xmlelement(name foo, xmlattributes(a AS b), 'x') FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT xmlparse(document '<a/>')
    1 | read pure alone | SELECT
SELECT xmlforest(a, b AS c) FROM t
    1 | read r=t pure alone | SELECT t
SELECT xpath('/a', b) FROM t
    1 | read r=t pure alone | SELECT t
SELECT JSON_VALUE(a, '$.b' RETURNING int DEFAULT 0 ON EMPTY) FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT * FROM JSON_TABLE(a, '$[*]' COLUMNS (id int PATH '$.id')) AS jt
    1 | read pure alone | SELECT
SELECT * FROM XMLTABLE('/a' PASSING b COLUMNS c int PATH 'c') AS x
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT JSON_EXISTS(a, '$.b')
    1 | read pure alone | SELECT
SELECT json_object('a' : 1)
    1 | read pure alone | SELECT
SELECT json_object('a' VALUE 1)
    1 | read pure alone | SELECT
SELECT json_arrayagg(a ORDER BY b) FROM t
    1 | read r=t pure alone | SELECT t
SELECT a IS JSON OBJECT FROM t
    1 | read r=t pure alone | SELECT t
SELECT a IS DOCUMENT FROM t
    1 | read r=t pure alone | SELECT t
SELECT a AT LOCAL FROM t
    1 | read r=t pure alone | SELECT t
SELECT a AT TIME ZONE 'UTC' FROM t
    1 | read r=t pure alone | SELECT t
SELECT a BETWEEN SYMMETRIC 1 AND 2 FROM t
    1 | read r=t pure alone | SELECT t
SELECT (a, b) OVERLAPS (c, d) FROM t
    1 | read r=t pure alone | SELECT t
SELECT * FROM t NATURAL JOIN u
    1 | read r=t,u pure alone | SELECT t u
SELECT * FROM t JOIN u USING (id) AS j
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT * FROM t TABLESAMPLE BERNOULLI (10) REPEATABLE (1)
    1 | read r=t pure alone | SELECT t
SELECT * FROM t TABLESAMPLE SYSTEM (10)
    1 | read r=t vol alone | SELECT t
SELECT (t).* FROM t
    1 | read r=t pure alone | SELECT t
SELECT (t).a.b FROM t
    1 | read r=t pure alone | SELECT t
SELECT (f(x)).a FROM t
    1 | read r=t opaque alone | SELECT t
SELECT a[1:2], b[1][2], c[:2], d[2:] FROM t
    1 | read r=t pure alone | SELECT t
SELECT ARRAY[1,2], ARRAY(SELECT a FROM t), ARRAY[]::int[]
    1 | read r=t pure alone | SELECT t
SELECT ROW(1,2), ROW(), (1,2)
    1 | read pure alone | SELECT
SELECT ROW(t.*) FROM t
    1 | read r=t pure alone | SELECT t
SELECT FROM t
    1 | read r=t pure alone | SELECT t
SELECT
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT * FROM t GROUP BY GROUPING SETS ((a), (b), ())
    1 | read r=t pure alone | SELECT t
SELECT * FROM t GROUP BY ROLLUP (a, b), CUBE (c)
    1 | read r=t pure alone | SELECT t
SELECT * FROM t GROUP BY DISTINCT a, b
    1 | read r=t pure alone | SELECT t
SELECT * FROM t GROUP BY ALL
    1 | read r=t pure alone | SELECT t
SELECT * FROM f(1) WITH ORDINALITY AS x(a, b)
    1 | read opaque alone | SELECT
SELECT * FROM f(1) AS (a int, b text)
    1 | read opaque alone | SELECT
SELECT * FROM f(1) AS x(a int, b text)
    1 | read opaque alone | SELECT
SELECT * FROM t, LATERAL f(t.a) x
    1 | read r=t opaque alone | SELECT t
SELECT * FROM t LEFT JOIN LATERAL (SELECT * FROM u WHERE u.id = t.id LIMIT 1) x ON true
    1 | read r=t,u pure alone | SELECT t u
SELECT * FROM LATERAL unnest(ARRAY[1]) x
    1 | read pure alone | SELECT
SELECT * FROM unnest(a, b) AS x(c, d)
    1 | read pure alone | SELECT
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS x(id, n)
    1 | read pure alone | SELECT
SELECT * FROM (t CROSS JOIN u)
    1 | read r=t,u pure alone | SELECT t u
SELECT * FROM (t CROSS JOIN u) AS x
    1 | read r=t,u pure alone | SELECT t u
VALUES (1), (2) ORDER BY 1 LIMIT 1
    1 | read pure alone | VALUES
TABLE t
    1 | read r=t pure alone | SELECT t
TABLE s.t
    1 | read r=s.t pure alone | SELECT s.t
TABLE "Foo"
    1 | read r=Foo pure alone | SELECT Foo
TABLE "a b"
    1 | read r=a b pure alone | SELECT "a b"
TABLE ONLY t
    1 | read r=t pure alone | SELECT t
TABLE t ORDER BY a
    1 | read r=t pure alone | SELECT t
(TABLE t) UNION ALL TABLE u
    1 | read r=t,u pure alone | SELECT t u
SELECT 1 UNION SELECT 2 INTERSECT SELECT 3 EXCEPT ALL SELECT 4
    1 | read pure alone | SELECT
(SELECT 1) UNION (SELECT 2) ORDER BY 1
    1 | read pure alone | SELECT
SELECT * INTO x FROM t
    1 | ddl r=t w=x alone | SELECT x t
SELECT * INTO TEMP x FROM t
    1 | session r=t w=x state | SELECT x t
SELECT * INTO TEMPORARY TABLE x FROM t
    1 | session r=t w=x state | SELECT x t
SELECT a INTO UNLOGGED "X y" FROM t
    1 | ddl r=t w=X y alone | SELECT "X y" t
SELECT a INTO s.x FROM t
    1 | ddl r=t w=s.x alone | SELECT s.x t
WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d
    1 | write w=t alone | DELETE t SELECT
WITH d AS (INSERT INTO t VALUES (1) RETURNING *) INSERT INTO u SELECT * FROM d
    1 | write w=t,u alone | INSERT t INSERT u SELECT
WITH d AS (UPDATE t SET a = 1 RETURNING *) UPDATE u SET x = 1
    1 | write w=t,u alone | UPDATE t UPDATE u
WITH d AS (MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE RETURNING *) SELECT * FROM d
    1 | write r=u w=t alone | MERGE t u SELECT
MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = u.a WHEN NOT MATCHED THEN INSERT (id) VALUES (u.id)
    1 | write r=u w=t alone | MERGE t u
MERGE INTO t AS x USING (SELECT * FROM u) AS y ON x.id = y.id WHEN MATCHED AND y.d THEN DELETE WHEN NOT MATCHED THEN DO NOTHING
    1 | write r=u w=t alone | MERGE t SELECT u
MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED BY SOURCE THEN DELETE
    1 | write r=u w=t alone | MERGE t u
MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED THEN INSERT DEFAULT VALUES
    1 | write r=u w=t alone | MERGE t u
MERGE INTO ONLY t USING u ON t.id = u.id WHEN MATCHED THEN DELETE
    1 | write r=u w=t alone | MERGE t u
WITH c AS (SELECT 1) MERGE INTO t USING c ON true WHEN MATCHED THEN DELETE
    1 | write w=t alone | SELECT MERGE t
SELECT CAST(a AS numeric(10,2)), a::varchar(10)[], a::"my type", a::s.t FROM t
    1 | read r=t pure alone | SELECT t
SELECT a::double precision, b::timestamp with time zone, c::bit varying(3) FROM t
    1 | read r=t pure alone | SELECT t
SELECT interval '1 day', INTERVAL '1' DAY, interval(3) '1 sec', date '2020-01-01', timestamp with time zone '2020-01-01 00:00', time '10:00'
    1 | read pure alone | SELECT
SELECT extract(epoch FROM a), substring(a FROM 1 FOR 2), overlay(a placing b from 1 for 2), trim(both 'x' from a), position('a' in b) FROM t
    1 | read r=t pure alone | SELECT t
SELECT substring(a similar 'x' escape '#') FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT a LIKE 'x' ESCAPE '!' , a ILIKE ANY (ARRAY['a']), a SIMILAR TO 'b', a ~ 'c', a !~* 'd' FROM t
    1 | read r=t pure alone | SELECT t
SELECT a = ANY($1), b <> ALL (SELECT 1), c IN (SELECT 2) FROM t
    1 | read r=t pure alone | SELECT t
SELECT a -> 'b' ->> 'c', a #> '{x}', a @> b, a <@ b, a ? 'k', a ?| ARRAY['k'], a ?& b, a @? '$', a @@ '$' FROM t
    1 | read r=t pure alone | SELECT t
SELECT a || b, a <-> b, a <=> b, a && b, a &< b, a -|- b, a |/ b FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT |/ 25, @ -5, !! 'x'::tsquery, ~ 5
    1 | read pure alone | SELECT
SELECT a ^@ b, a #- '{x}', a ~~ b, a ~~* b, a !~~ b, a >> 1, a << 1, a # b, a % b, a <% b, a %> b, a <<-> b FROM t
    1 | read r=t opaque alone | SELECT t
SELECT CASE a WHEN 1 THEN 2 ELSE 3 END FROM t
    1 | read r=t pure alone | SELECT t
SELECT current_date, current_time, current_timestamp, current_timestamp(3), localtime, localtimestamp, current_user, session_user, user, current_role, current_catalog, current_schema
    1 | read time sess pure alone | SELECT
SELECT U&'\0041', U&"a", E'a\'b', B'01', X'ff', N'x'
    1 | read pure alone | SELECT
SELECT 'a'
    1 | read pure alone | SELECT
SELECT $tag$ SELECT 1; $tag$
    1 | read pure alone | SELECT
SELECT a AS "select", b "x" FROM t AS "T" ("c")
    1 | read r=t pure alone | SELECT t
SELECT a b FROM t WHERE NOT EXISTS (SELECT 1 FROM u) AND a IS NOT DISTINCT FROM b
    1 | read r=t,u pure alone | SELECT t u
SELECT a IS UNKNOWN, b ISNULL, c NOTNULL FROM t
    1 | read r=t pure alone | SELECT t
SELECT f(VARIADIC ARRAY[1]), g(a => 1, b := 2), h(DISTINCT a ORDER BY b), i(ALL a)
    1 | read opaque alone | SELECT
SELECT make_interval(days => 10), now() - interval '1 day'
    1 | read time pure alone | SELECT
SELECT count(*), count(DISTINCT a), array_agg(a ORDER BY b DESC NULLS LAST) FROM t
    1 | read r=t pure alone | SELECT t
SELECT nth_value(a, 1) IGNORE NULLS OVER () FROM t
    1 | read r=t pure alone | SELECT t
SELECT string_agg(a, ',' ORDER BY a) FROM t
    1 | read r=t pure alone | SELECT t
SELECT * FROM t ORDER BY a USING >
    1 | read r=t pure alone | SELECT t
SELECT * FROM a.b.c
    1 | read r=b.c pure alone | SELECT b.c
SELECT treat, type, value, name, date, user_id, "order" FROM t
    1 | read r=t pure alone | SELECT t
SELECT year, month FROM t WHERE level = 1 and status = 'x' and key = 1
    1 | read r=t pure alone | SELECT t
SELECT * FROM "user" u, "My Schema"."My.Table" m
    1 | read r=user,My Schema.My.Table pure alone | SELECT user "My Schema.My.Table"
SELECT t.* , a.b.c FROM t
    1 | read r=t pure alone | SELECT t
SELECT 1 AS one, 2 two, 3 AS "Three"
    1 | read pure alone | SELECT
SELECT 0x1F, 1_000, .5, 1., 1e10
    1 | read pure alone | SELECT
SELECT * FROM t WHERE (a, b) = (1, 2) AND (a, b) IN ((1, 2), (3, 4)) AND ROW(a, b) < ROW(1, 2)
    1 | read r=t pure alone | SELECT t
SELECT * FROM t WHERE (a, b) > ($1, $2) ORDER BY a, b LIMIT $3
    1 | read r=t pure alone | SELECT t
SELECT coalesce(a, 0), nullif(a, b), greatest(a, b), least(a, b) FROM t
    1 | read r=t pure alone | SELECT t
SELECT a FROM t WHERE id = ANY(ARRAY(SELECT id FROM u))
    1 | read r=t,u pure alone | SELECT t u
SELECT a FROM t WHERE a = 1 /* c */ -- x
    1 | read r=t pure alone | SELECT t
SELECT normalize(a, NFC), a IS NFC NORMALIZED FROM t
    1 | read r=t pure alone | SELECT t
SELECT collation for (a) FROM t
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT setting FROM pg_settings; SELECT 2
    2 | read r=pg_settings sess pure alone | SELECT pg_settings SELECT
SELECT exists(select 1 from t where id = $1) as "exists!"
    1 | read r=t pure alone | SELECT t
select id as "id!: i64", name as "name?" from t where id = $1
    1 | read r=t pure alone | SELECT t
SELECT id, COUNT(*) OVER() AS full_count FROM orders WHERE status::text = ANY($1::text[])
    1 | read r=orders pure alone | SELECT orders
SELECT * FROM t WHERE tsv @@ plainto_tsquery('english', $1) ORDER BY ts_rank(tsv, plainto_tsquery('english', $1)) DESC
    1 | read r=t pure alone | SELECT t
SELECT jsonb_path_query(a, '$.x ? (@ > 1)') FROM t
    1 | read r=t pure alone | SELECT t
INSERT INTO t (a, b) SELECT * FROM UNNEST($1::int[], $2::text[])
    1 | write w=t alone | INSERT t SELECT
INSERT INTO t (a, b) SELECT * FROM UNNEST($1::int[], $2::text[]) ON CONFLICT DO NOTHING RETURNING id
    1 | write w=t alone | INSERT t SELECT
INSERT INTO t VALUES ($1, $2) ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET a = $2
    1 | write w=t alone | INSERT t
UPDATE t SET a = a + 1, b = now() WHERE id IN (SELECT id FROM u FOR UPDATE SKIP LOCKED LIMIT 5) RETURNING id
    1 | write r=u w=t lock time alone | UPDATE t SELECT u
UPDATE t SET a = v.a FROM (VALUES (1, 2), (3, 4)) AS v(id, a) WHERE t.id = v.id
    1 | write w=t alone | UPDATE t
DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 100)
    1 | write r=t w=t alone | DELETE t SELECT t
WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 10) SELECT sum(n) FROM r
    1 | read pure alone | SELECT
SELECT * FROM t WHERE a SIMILAR TO '%x' OR a NOT LIKE ALL (ARRAY['x'])
    1 | read r=t pure alone | SELECT t
SELECT a FROM t ORDER BY b NULLS FIRST, c COLLATE "C" DESC
    1 | read r=t pure alone | SELECT t
SELECT * FROM generate_series(1, 10) AS g(x) CROSS JOIN LATERAL (SELECT g.x * 2 AS y) z
    1 | read pure alone | SELECT
SELECT pg_catalog.count(*) FROM t
    1 | read r=t pure alone | SELECT t
SELECT * FROM t WHERE a = 'x' AND b = 'y' COLLATE "de_DE"
    1 | read r=t pure alone | SELECT t
SELECT * FROM t FULL OUTER JOIN u ON t.a = u.a LEFT OUTER JOIN v ON true RIGHT JOIN w USING (id, x)
    1 | read r=t,u,v,w pure alone | SELECT t u v w
SELECT 'foo' 'bar'
    1 | read pure alone | SELECT
SELECT U&'\0041' FROM U&"t"
    1 | unknown all lock vol opaque time sess state open | SELECT
SELECT * FROM "a.b"."c d", "e""f"
    1 | read r=e"f,a.b.c d pure alone | SELECT "a.b.c d" e"f
SELECT * FROM t WHERE a = 'x'\nAND b = 'y'
    1 | read r=t pure alone | SELECT t
"##;
