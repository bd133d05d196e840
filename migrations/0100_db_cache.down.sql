-- With the triggers of every table that is watched.
DROP SCHEMA db_cache CASCADE;
