//! Statements of other kinds: transactions, sessions, definitions, COPY, EXPLAIN.

mod facts_table;

#[test]
fn facts() {
    facts_table::check(TABLE);
}

/// See `facts_table.rs` for the form.
const TABLE: &str = r##"
BEGIN
    1 | txcontrol open | BEGIN
BEGIN; INSERT INTO t VALUES (1); COMMIT
    3 | write w=t | BEGIN INSERT t COMMIT
BEGIN; INSERT INTO t VALUES (1)
    2 | write w=t open | BEGIN INSERT t
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY
    1 | txcontrol open | BEGIN
START TRANSACTION READ ONLY
    1 | txcontrol open | START TRANSACTION
COMMIT
    1 | txcontrol open | COMMIT
COMMIT AND CHAIN
    1 | txcontrol open | COMMIT
BEGIN; COMMIT AND CHAIN
    2 | txcontrol open | BEGIN COMMIT
BEGIN; COMMIT AND NO CHAIN
    2 | txcontrol | BEGIN COMMIT
END
    1 | txcontrol open | COMMIT
ROLLBACK
    1 | txcontrol open | ROLLBACK
ABORT
    1 | txcontrol open | ROLLBACK
BEGIN; ROLLBACK TO SAVEPOINT a; COMMIT
    3 | txcontrol | BEGIN ROLLBACK COMMIT
SAVEPOINT a
    1 | txcontrol open | SAVEPOINT
RELEASE SAVEPOINT a
    1 | txcontrol open | RELEASE
ROLLBACK TO a
    1 | txcontrol open | ROLLBACK
PREPARE TRANSACTION 'x'
    1 | txcontrol open | PREPARE TRANSACTION
BEGIN; DELETE FROM t; PREPARE TRANSACTION 'x'
    3 | write w=t | BEGIN DELETE t PREPARE TRANSACTION
COMMIT PREPARED 'x'
    1 | txcontrol all | COMMIT
ROLLBACK PREPARED 'x'
    1 | txcontrol all | ROLLBACK
SET LOCAL work_mem = '1MB'
    1 | session alone | SET
SET SESSION work_mem = '1MB'
    1 | session state | SET
SET work_mem TO '1MB'
    1 | session state | SET
SET search_path = a, b
    1 | session state | SET
SET ROLE x
    1 | session state | SET
SET LOCAL ROLE x
    1 | session alone | SET
SET SESSION AUTHORIZATION x
    1 | session state | SET
SET TIME ZONE 'UTC'
    1 | session state | SET
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
    1 | session alone | SET
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
    1 | session state | SET
SET CONSTRAINTS ALL DEFERRED
    1 | session alone | SET
RESET ALL
    1 | session state | RESET
RESET work_mem
    1 | session state | RESET
DISCARD ALL
    1 | session state | DISCARD
LISTEN c
    1 | session state | LISTEN
UNLISTEN *
    1 | session state | UNLISTEN
NOTIFY c, 'x'
    1 | write vol alone | NOTIFY
PREPARE p AS SELECT 1
    1 | session state | PREPARE
PREPARE p (int) AS DELETE FROM t
    1 | session state | PREPARE
EXECUTE p(1)
    1 | unknown all lock vol opaque time sess state open | EXECUTE
DEALLOCATE ALL
    1 | session state | DEALLOCATE
DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t
    1 | session r=t state | DECLARE SELECT t
DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE
    1 | session r=t lock alone | DECLARE SELECT t
DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT * FROM t
    1 | session r=t alone | DECLARE SELECT t
FETCH 10 FROM c
    1 | session all vol opaque alone | FETCH
MOVE c
    1 | session all vol opaque alone | MOVE
CLOSE c
    1 | session alone | CLOSE
SHOW work_mem
    1 | read sess pure alone | SHOW
LOCK TABLE a, b IN EXCLUSIVE MODE
    1 | read r=a,b lock alone | LOCK a b
LOCK a NOWAIT
    1 | read r=a lock alone | LOCK a
LOCK TABLE ONLY "A b"."c""d" IN SHARE MODE
    1 | read r=A b.c"d lock alone | LOCK "A b.c"d"
TRUNCATE t
    1 | write w=t alone | TRUNCATE t
TRUNCATE TABLE ONLY a, s.b RESTART IDENTITY CASCADE
    1 | write w=a,s.b all alone | TRUNCATE a s.b
REFRESH MATERIALIZED VIEW CONCURRENTLY mv
    1 | write w=mv opaque alone | REFRESH mv
CREATE TABLE t (a int DEFAULT 1, b text)
    1 | ddl w=t alone | CREATE TABLE t
CREATE TABLE IF NOT EXISTS s.t (a int)
    1 | ddl w=s.t alone | CREATE TABLE s.t
CREATE TEMP TABLE t (a int)
    1 | session w=t state | CREATE TABLE t
CREATE TEMP TABLE t (a int) ON COMMIT DROP
    1 | session w=t alone | CREATE TABLE t
CREATE TEMPORARY TABLE t ON COMMIT DROP AS SELECT * FROM u
    1 | session r=u w=t alone | CREATE TABLE t SELECT u
CREATE UNLOGGED TABLE t AS SELECT * FROM u WITH NO DATA
    1 | ddl r=u w=t alone | CREATE TABLE t SELECT u
CREATE TABLE t AS TABLE u WITH DATA
    1 | ddl r=u w=t alone | CREATE TABLE t SELECT u
CREATE TABLE t (a, b) AS VALUES (1, 2)
    1 | ddl w=t alone | CREATE TABLE t VALUES
CREATE TABLE t AS EXECUTE p
    1 | unknown w=t all lock vol opaque time sess state open | CREATE TABLE t
CREATE TABLE pg_temp.t (a int)
    1 | session w=pg_temp.t state | CREATE TABLE pg_temp.t
CREATE TABLE t (LIKE u INCLUDING ALL)
    1 | ddl w=t alone | CREATE TABLE t
CREATE TABLE p PARTITION OF t FOR VALUES IN (1)
    1 | ddl w=p alone | CREATE TABLE p
CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY, b int GENERATED ALWAYS AS (a * 2) STORED)
    1 | ddl w=t alone | CREATE TABLE t
CREATE VIEW v AS SELECT * FROM t
    1 | ddl w=v alone | CREATE VIEW v
CREATE OR REPLACE TEMP VIEW v AS SELECT 1
    1 | session w=v state | CREATE VIEW v
CREATE MATERIALIZED VIEW mv AS SELECT f(a) FROM t
    1 | ddl r=t w=mv opaque alone | CREATE VIEW mv SELECT t
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t USING btree (lower(a)) WHERE b > 1
    1 | ddl w=s.t alone | CREATE INDEX s.t
CREATE INDEX ON t (a)
    1 | ddl w=t alone | CREATE INDEX t
CREATE SEQUENCE s
    1 | ddl w=s alone | CREATE SEQUENCE s
CREATE TEMP SEQUENCE s
    1 | session w=s state | CREATE SEQUENCE s
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2; $$
    1 | ddl all alone | CREATE FUNCTION
CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END; SELECT 1
    2 | ddl all alone | CREATE FUNCTION SELECT
CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM u; DELETE FROM v)
    1 | ddl all alone | CREATE RULE
CREATE ROLE x PASSWORD 'secret'
    1 | ddl all alone | CREATE ROLE
CREATE EXTENSION IF NOT EXISTS pg_trgm
    1 | ddl all alone | CREATE EXTENSION
ALTER TABLE t ADD COLUMN a int DEFAULT 5
    1 | ddl w=t alone | ALTER TABLE t
ALTER TABLE IF EXISTS ONLY s.t DROP COLUMN a
    1 | ddl w=s.t alone | ALTER TABLE s.t
ALTER TABLE t RENAME TO u
    1 | ddl w=t all alone | ALTER TABLE t
ALTER TABLE t ATTACH PARTITION p DEFAULT
    1 | ddl w=t all alone | ALTER TABLE t
ALTER ROLE x SET search_path = y
    1 | ddl all alone | ALTER ROLE
ALTER SYSTEM SET work_mem = '1GB'
    1 | ddl all alone | ALTER SYSTEM
DROP TABLE a, s.b
    1 | ddl w=a,s.b alone | DROP TABLE a s.b
DROP TABLE IF EXISTS a CASCADE
    1 | ddl w=a all alone | DROP TABLE a
DROP INDEX CONCURRENTLY i
    1 | ddl alone | DROP INDEX
DROP FUNCTION f(int)
    1 | ddl all alone | DROP FUNCTION
DROP SCHEMA s CASCADE
    1 | ddl all alone | DROP SCHEMA
COMMENT ON TABLE t IS 'x'
    1 | ddl alone | COMMENT
GRANT SELECT ON t TO x
    1 | ddl all alone | GRANT
VACUUM (FULL, ANALYZE) t
    1 | ddl alone | VACUUM
ANALYZE t
    1 | ddl alone | ANALYZE
REINDEX TABLE t
    1 | ddl alone | REINDEX
CLUSTER t USING i
    1 | ddl alone | CLUSTER
CHECKPOINT
    1 | ddl alone | CHECKPOINT
EXPLAIN SELECT * FROM t
    1 | read r=t vol alone | EXPLAIN SELECT t
EXPLAIN DELETE FROM t
    1 | read r=t vol alone | EXPLAIN DELETE t
EXPLAIN ANALYZE DELETE FROM t
    1 | write w=t vol alone | EXPLAIN DELETE t
EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1
    1 | write w=t vol alone | EXPLAIN UPDATE t
EXPLAIN (ANALYZE false, VERBOSE) DELETE FROM t
    1 | read r=t vol alone | EXPLAIN DELETE t
EXPLAIN (COSTS OFF) SELECT nextval('s')
    1 | read vol alone | EXPLAIN SELECT
EXPLAIN (SELECT 1)
    1 | read vol alone | EXPLAIN SELECT
EXPLAIN VERBOSE CREATE TABLE x AS SELECT * FROM t
    1 | read r=t,x vol alone | EXPLAIN CREATE TABLE x SELECT t
COPY t TO STDOUT
    1 | read r=t pure alone | COPY t
COPY t (a, b) TO STDOUT WITH (FORMAT csv)
    1 | read r=t pure alone | COPY t
COPY t FROM STDIN
    1 | write w=t alone | COPY t
COPY s."T" (a) FROM STDIN WITH (FORMAT binary)
    1 | write w=s.T alone | COPY s.T
COPY (SELECT * FROM t WHERE a = (SELECT max(b) FROM u)) TO STDOUT
    1 | read r=t,u pure alone | COPY SELECT t u
COPY (DELETE FROM t RETURNING *) TO STDOUT
    1 | write w=t alone | COPY DELETE t
COPY t TO PROGRAM 'cat'
    1 | read r=t vol alone | COPY t
COPY (SELECT 1) TO '/tmp/x'
    1 | read vol alone | COPY SELECT
COPY t FROM '/tmp/x' WHERE f(a)
    1 | write w=t opaque alone | COPY t
DO $$ BEGIN DELETE FROM t; END $$
    1 | unknown all lock vol opaque time sess state open | DO
CALL p(1)
    1 | unknown all lock vol opaque time sess state open | CALL
"##;
