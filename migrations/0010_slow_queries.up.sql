-- The slow-query log: one partition for each day (UTC), written over a connection of its own. The statement is the
-- text without its literals; arguments are there only where the settings ask for them.
CREATE TABLE slow_queries (
    at timestamptz NOT NULL,
    -- A hash: an index on the text would refuse texts of more than a third of a page.
    fingerprint bigint NOT NULL,
    summary text NOT NULL,
    statement text NOT NULL,
    class text NOT NULL,
    -- done, cancelled, a SQLSTATE or the kind of the error.
    outcome text NOT NULL,
    duration_ms double precision NOT NULL,
    -- Of the duration: for a lease, a retry's turn, the reader.
    waited_ms double precision NOT NULL,
    threshold_ms double precision NOT NULL,
    -- Calls of the statement before this one that had no entry because there were too many in one second.
    skipped bigint NOT NULL,
    -- The line of the caller's code, where it is known.
    site text,
    arguments text
) PARTITION BY RANGE (at);

CREATE INDEX slow_queries_fingerprint ON slow_queries (fingerprint, at);
CREATE INDEX slow_queries_at ON slow_queries USING brin (at);

-- Makes the partitions of today and tomorrow and drops those whose last day is longer ago than keep. Called by the
-- writer every hour; many writers may call it at once.
CREATE FUNCTION slow_queries_turn(keep interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day date;
    old text;
BEGIN
    FOREACH day IN ARRAY ARRAY[today, today + 1] LOOP
        BEGIN
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I PARTITION OF slow_queries FOR VALUES FROM (%L) TO (%L)',
                'slow_queries_' || to_char(day, 'YYYYMMDD'),
                day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
        EXCEPTION WHEN duplicate_table OR unique_violation OR duplicate_object THEN
            NULL; -- another writer was quicker
        END;
    END LOOP;
    FOR old IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'slow_queries'::regclass AND c.relname ~ '^slow_queries_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < today - extract(day FROM justify_hours(keep))::int
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', old);
    END LOOP;
END $$;

-- What cost most since midnight (UTC).
CREATE VIEW slow_queries_worst_today AS
SELECT fingerprint, min(summary) AS summary, min(statement) AS statement,
       count(*) + sum(skipped) AS calls, sum(duration_ms) AS total_ms, max(duration_ms) AS worst_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms, max(at) AS last_at
FROM slow_queries
WHERE at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
GROUP BY fingerprint
ORDER BY total_ms DESC;

-- Statements of the last 24 hours that were not slow before.
CREATE VIEW slow_queries_new_since_yesterday AS
SELECT fingerprint, min(summary) AS summary, min(statement) AS statement,
       count(*) + sum(skipped) AS calls, max(duration_ms) AS worst_ms, min(at) AS first_at
FROM slow_queries AS s
WHERE at >= now() - interval '24 hours'
  AND NOT EXISTS (SELECT FROM slow_queries AS b
                  WHERE b.fingerprint = s.fingerprint AND b.at < now() - interval '24 hours')
GROUP BY fingerprint
ORDER BY worst_ms DESC;
