-- Tells every process that listens on channel db_cache which table has been written, when the transaction commits.
CREATE SCHEMA IF NOT EXISTS db_cache;

-- The payload is the table's OID: as short as it can be, and the same for all writes of one transaction, which the
-- server then sends once.
CREATE OR REPLACE FUNCTION db_cache.changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('db_cache', TG_RELID::text);
    RETURN NULL;
END
$$;

-- Watches a table with all its partitions and children; returns how many tables that are. Partitions that come later
-- have to be watched again.
CREATE OR REPLACE FUNCTION db_cache.watch(target regclass) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part regclass;
    watched integer := 0;
BEGIN
    FOR part IN
        WITH RECURSIVE family (id) AS (
            SELECT target::oid
            UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN family ON i.inhparent = family.id
        )
        SELECT c.oid FROM family JOIN pg_catalog.pg_class AS c ON c.oid = family.id WHERE c.relkind IN ('r', 'p')
    LOOP
        EXECUTE pg_catalog.format(
            'CREATE OR REPLACE TRIGGER db_cache_watch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION db_cache.changed()', part);
        -- Also for sessions in which other triggers are off.
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER db_cache_watch', part);
        watched := watched + 1;
    END LOOP;
    IF watched = 0 THEN
        RAISE EXCEPTION 'db_cache.watch: % is not a table', target
            USING HINT = 'Watch the tables under a view; a foreign table can only be cached under a tag.';
    END IF;
    RETURN watched;
END
$$;

CREATE OR REPLACE FUNCTION db_cache.unwatch(target regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        WITH RECURSIVE family (id) AS (
            SELECT target::oid
            UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN family ON i.inhparent = family.id
        )
        SELECT id FROM family
    LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS db_cache_watch ON %s', part);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION db_cache.schema_changed() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
            PERFORM pg_catalog.pg_notify('db_cache', '*');
        END IF;
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp') THEN
        PERFORM pg_catalog.pg_notify('db_cache', '*');
    END IF;
END
$$;

-- Tells of changes of the schema at once; only a superuser may have event triggers. Without it each process compares
-- the schema from time to time.
CREATE OR REPLACE FUNCTION db_cache.watch_schema() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DROP EVENT TRIGGER IF EXISTS db_cache_schema;
    DROP EVENT TRIGGER IF EXISTS db_cache_drop;
    CREATE EVENT TRIGGER db_cache_schema ON ddl_command_end EXECUTE FUNCTION db_cache.schema_changed();
    CREATE EVENT TRIGGER db_cache_drop ON sql_drop EXECUTE FUNCTION db_cache.schema_changed();
END
$$;
