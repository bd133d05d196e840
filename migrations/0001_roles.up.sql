-- Who may do what. Roles belong to the whole server: where the installing role may not make them, an administrator
-- does, before this runs, and the grants below find them.
DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['db_stack_app', 'db_stack_advisor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'db_stack_app and db_stack_advisor were not made: this role may not make roles';
END
$$;

-- Grants to a role that may not be there. `what` is everything between GRANT and TO.
CREATE FUNCTION grant_if_role(role name, what text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
        EXECUTE format('GRANT %s TO %I', what, role);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION grant_if_role(name, text) FROM PUBLIC;

-- The application uses the tables that later migrations grant to it; the advisor reads statistics and changes nothing.
SELECT grant_if_role(role, format('USAGE ON SCHEMA %I', current_schema()))
FROM unnest(ARRAY['db_stack_app', 'db_stack_advisor']) AS roles (role);

DO $$
BEGIN
    PERFORM grant_if_role('db_stack_advisor', 'pg_monitor');
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'db_stack_advisor has not got pg_monitor: an administrator must grant it';
END
$$;
