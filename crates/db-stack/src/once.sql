-- The tokens of Db::transaction_once: who finds the key of an operation here knows that it was committed.
CREATE TABLE IF NOT EXISTS db_stack_once (
    key text PRIMARY KEY,
    -- JSON, where the caller wants the same answer again.
    result text,
    expires_at timestamptz NOT NULL
);

CREATE INDEX IF NOT EXISTS db_stack_once_expires_at ON db_stack_once (expires_at);
