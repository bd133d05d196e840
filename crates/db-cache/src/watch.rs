//! What makes the server tell of writes that no process here makes.

/// Installs the schema `db_cache`: `db_cache.watch(table)` makes every committed write of a table, with its partitions
/// and children, send a notification; `db_cache.unwatch(table)` ends that; `db_cache.watch_schema()`, for superusers,
/// does the same for changes of the schema. May be run again. Also in the project's `migrations/`.
///
/// NOTIFY takes a lock for the whole server while a transaction commits: writers of watched tables commit one after the
/// other.
pub const WATCH_SQL: &str = include_str!("../../../migrations/0100_db_cache.up.sql");

/// Takes it away again, with all its triggers.
pub const UNWATCH_SQL: &str = include_str!("../../../migrations/0100_db_cache.down.sql");
