//! The table of all keys. A test compares it with the structs, another one with `docs/configuration.md`.

use super::reference::{
    KeyDoc,
    Kind::{Duration, DurationOrOff, Flag, Integer, Mode, Number, Secret, Table, Text, Url, Urls, Word},
};

/// One line for each key; braces keep rustfmt from breaking them up.
macro_rules! keys {
    ($($kind:ident $name:literal = $default:literal, $allowed:literal: $doc:literal;)*) => {
        &[$(KeyDoc::new($name, $kind, $default, $allowed, $doc)),*]
    };
}

/// Every key, by section.
pub const KEYS: &[KeyDoc] = keys! {
    Url "connection.url" = "", "postgres://user:password@host:5432/database?parameters":
        "The server, in one text. Excludes `host`, `port`, `database` and `user`.";
    Text "connection.host" = "", "a host, an IP address or a socket's folder": "Else `PGHOST`, else a local socket.";
    Integer "connection.port" = "", "1..=65535": "Else `PGPORT`, else 5432.";
    Text "connection.database" = "", "no control characters": "Else `PGDATABASE`, else the user's name.";
    Text "connection.user" = "", "no control characters": "Else `PGUSER`, else the operating system's user.";
    Secret "connection.password" = "", "text without NUL": "Wins over the URL's. Else `PGPASSWORD`, else the password file.";
    Word "connection.ssl_mode" = "", "disable, allow, prefer, require, verify-ca or verify-full":
        "Wins over the URL's. Else `verify-full` unless the server is on this machine.";
    Text "connection.ssl_root_cert" = "", "a PEM file": "The authorities to trust. Else the web's.";
    Integer "connection.statement_cache_capacity" = "100", "0..=100000":
        "Prepared statements kept for each connection; 0 keeps none.";

    Integer "pool.max_connections" = "10", "1..=10000": "The most connections, idle and in use together.";
    Integer "pool.min_connections" = "1", "0..=max_connections": "Connections opened at the start and kept up.";
    Integer "pool.max_waiting" = "1024", "1..=1000000": "Callers that may wait at once; see `admission`.";
    Duration "pool.acquire_timeout" = "5s", "1ms..=1h": "How long a caller waits for a lease in all.";
    Duration "pool.connect_timeout" = "5s", "1ms..=1h": "How long one attempt to connect may take.";
    Integer "pool.connect_parallelism" = "4", "1..=1000": "Attempts to connect that run at once.";
    Duration "pool.connect_backoff_base" = "50ms", "1ms..=connect_backoff_cap": "The first pause after a failed attempt.";
    Duration "pool.connect_backoff_cap" = "400ms", "1ms..=1h": "The longest pause between attempts.";
    DurationOrOff "pool.idle_timeout" = "10m", "at least 1ms": "An unused connection over `min_connections` is closed then.";
    DurationOrOff "pool.max_lifetime" = "30m", "at least 1ms": "How old a connection gets.";
    Number "pool.lifetime_jitter" = "0.25", "0..=0.9": "The share of `max_lifetime` taken off at random.";
    Duration "pool.validate_after" = "500ms", "0s..=1h": "A connection idle for longer is tested before it is handed out.";
    Duration "pool.validation_timeout" = "250ms", "1ms..=acquire_timeout": "How long that test may take.";
    Duration "pool.quarantine_timeout" = "1s", "1ms..=1h": "How long making one lease clean may take.";
    Duration "pool.drain_timeout" = "20s", "0s..=1h": "How long `close()` waits for leases that are out.";
    Duration "pool.slow_acquire" = "100ms", "0s..=1h": "A longer wait for a lease is an event.";
    Mode "pool.admission" = "enforce", "off, observe or enforce":
        "What priorities, deadlines and `max_waiting` do; `off`: first come first served, without a bound.";
    Duration "pool.shed_target" = "2s", "1ms..=1h": "A queue in which somebody waits for longer may be standing.";
    Duration "pool.shed_interval" = "500ms", "1ms..=1h": "It stands when it was not empty for so long; then callers are shed.";
    Number "pool.tenant_share" = "0.5", "0.001..=1": "The share of the connections that one tenant may use at once.";
    Integer "pool.priorities.critical.floor" = "3", "0..=ceiling": "Connections left free for it; scaled to the budget.";
    Integer "pool.priorities.critical.ceiling" = "10", "1..=10000": "Connections it uses while others wait.";
    Integer "pool.priorities.critical.spare" = "2", "0..=10000": "Connections that less urgent ones leave free beyond what it uses.";
    Integer "pool.priorities.high.floor" = "5", "0..=ceiling": "Connections left free for it; scaled to the budget.";
    Integer "pool.priorities.high.ceiling" = "20", "1..=10000": "Connections it uses while others wait.";
    Integer "pool.priorities.high.spare" = "0", "0..=10000": "Connections that less urgent ones leave free beyond what it uses.";
    Integer "pool.priorities.normal.floor" = "5", "0..=ceiling": "Connections left free for it; scaled to the budget.";
    Integer "pool.priorities.normal.ceiling" = "30", "1..=10000": "Connections it uses while others wait.";
    Integer "pool.priorities.normal.spare" = "0", "0..=10000": "Connections that less urgent ones leave free beyond what it uses.";
    Integer "pool.priorities.background.floor" = "2", "0..=ceiling": "Connections left free for it; scaled to the budget.";
    Integer "pool.priorities.background.ceiling" = "10", "1..=10000": "Connections it uses while others wait.";
    Integer "pool.priorities.background.spare" = "0", "0..=10000": "Connections that less urgent ones leave free beyond what it uses.";
    Mode "pool.limit.mode" = "off", "off, observe or enforce": "Finds out how many leases may be in use; `off`: `max_connections`.";
    Word "pool.limit.policy" = "gradient", "gradient or utilization": "By throughput, or by the report's rule.";
    Integer "pool.limit.min" = "2", "1..=absolute_max": "The limit is never lower.";
    Integer "pool.limit.absolute_max" = "100", "1..=10000": "The limit is never higher.";
    Duration "pool.limit.window" = "500ms", "10ms..=1h": "How long the throughput at one limit is measured.";
    Number "pool.limit.target_utilization" = "0.7", "0.3..=1": "For `utilization`: the limit grows above it.";
    Duration "pool.limit.scale_interval" = "1m", "10ms..=1h": "For `utilization`: how often it is looked at.";
    Duration "pool.limit.census_interval" = "1s", "10ms..=1h": "How often the server is asked what it has free.";
    Integer "pool.statements.prepare_from" = "1", "1..=1000000": "The use of a text from which on it is kept prepared.";
    Integer "pool.statements.warm" = "8", "0..=1000": "Texts of most use that a new connection prepares before it is handed out.";
    Duration "pool.statements.warm_within" = "50ms", "1ms..=1h": "No further text is begun after this time.";
    Duration "pool.priorities.ageing" = "1s", "1ms..=1h": "A priority that waits and was not served for so long goes first, once.";
    Duration "pool.priorities.reserve_for" = "10s", "1ms..=1h": "How long a floor is held back after its last call.";

    Text "session.application_name" = "db-stack", "at most 63 bytes, no control characters": "The name in `pg_stat_activity`.";
    DurationOrOff "session.statement_timeout" = "2m 10s", "1ms..=2147483647ms": "The server ends a statement that runs longer.";
    DurationOrOff "session.lock_timeout" = "10s", "1ms..=2147483647ms": "The server ends a statement that waits longer for a lock.";
    DurationOrOff "session.idle_in_transaction_session_timeout" = "30s", "1ms..=2147483647ms":
        "The server ends a session that idles longer in a transaction.";
    DurationOrOff "session.client_connection_check_interval" = "200ms", "1ms..=2147483647ms":
        "How often a busy server looks whether its client is still there (PostgreSQL 14).";
    DurationOrOff "session.tcp_keepalives_idle" = "10s", "1s..=9h": "The server probes a silent client after this time.";
    Duration "session.tcp_keepalives_interval" = "5s", "1s..=9h": "The time between two probes.";
    Integer "session.tcp_keepalives_count" = "3", "1..=127": "Unanswered probes before the client is given up.";
    DurationOrOff "session.tcp_user_timeout" = "10s", "1ms..=2147483647ms":
        "A client whose acknowledgement is missing for this long is given up (PostgreSQL 12).";
    Word "session.pooler" = "auto", "auto, none or transaction":
        "Whether a transaction pooler such as PgBouncer stands before the server; `auto` finds out.";
    Table "session.extra" = "", "names [a-z_][a-z0-9_.]*, values without control characters":
        "Further server settings, such as `work_mem = \"64MB\"`.";

    Word "tenants.mode" = "off", "off, schema, row or database": "What keeps tenants apart.";
    Text "tenants.pattern" = "[a-z0-9][a-z0-9_-]{0,47}", "a regular expression of at most 1000 bytes": "The whole of an id must match.";
    Text "tenants.schema" = "tenant_{id}", "a name with {id} in it": "For `schema`: the tenant's schema.";
    Text "tenants.shared_schemas" = "public", "names separated by commas": "For `schema`: those behind it in the search path.";
    Text "tenants.database" = "tenant_{id}", "a name with {id} in it": "For `database`: the tenant's database.";
    Text "tenants.setting" = "app.tenant", "a name like app.tenant": "For `row`: the setting that the policies read.";

    Mode "timeout.mode" = "enforce", "off, observe or enforce": "`observe` ends no call and tells which ones it would have.";
    Duration "timeout.instant.timeout" = "200ms", "1ms..=24h": "How long a call of class `instant` may take in all.";
    Duration "timeout.instant.alert" = "100ms", "1ms..=24h": "A call of this class that took longer is told as slow.";
    Flag "timeout.instant.retry" = "true", "true or false": "Whether a failed call of this class may be tried again.";
    DurationOrOff "timeout.instant.cache_ttl" = "1m", "1ms..=24h": "How long its answer is fresh, where caching by policy is asked for.";
    Duration "timeout.fast.timeout" = "1s", "1ms..=24h": "How long a call of class `fast` may take in all.";
    Duration "timeout.fast.alert" = "500ms", "1ms..=24h": "A call of this class that took longer is told as slow.";
    Flag "timeout.fast.retry" = "true", "true or false": "Whether a failed call of this class may be tried again.";
    DurationOrOff "timeout.fast.cache_ttl" = "30s", "1ms..=24h": "How long its answer is fresh, where caching by policy is asked for.";
    Duration "timeout.normal.timeout" = "5s", "1ms..=24h": "How long a call of class `normal` may take in all.";
    Duration "timeout.normal.alert" = "2s", "1ms..=24h": "A call of this class that took longer is told as slow.";
    Flag "timeout.normal.retry" = "true", "true or false": "Whether a failed call of this class may be tried again.";
    DurationOrOff "timeout.normal.cache_ttl" = "off", "1ms..=24h": "How long its answer is fresh, where caching by policy is asked for.";
    Duration "timeout.slow.timeout" = "15s", "1ms..=24h": "How long a call of class `slow` may take in all.";
    Duration "timeout.slow.alert" = "10s", "1ms..=24h": "A call of this class that took longer is told as slow.";
    Flag "timeout.slow.retry" = "false", "true or false": "Whether a failed call of this class may be tried again.";
    DurationOrOff "timeout.slow.cache_ttl" = "5m", "1ms..=24h": "How long its answer is fresh, where caching by policy is asked for.";
    Duration "timeout.batch.timeout" = "2m", "1ms..=24h": "How long a call of class `batch` may take in all.";
    Duration "timeout.batch.alert" = "1m", "1ms..=24h": "A call of this class that took longer is told as slow.";
    Flag "timeout.batch.retry" = "false", "true or false": "Whether a failed call of this class may be tried again.";
    DurationOrOff "timeout.batch.cache_ttl" = "off", "1ms..=24h": "How long its answer is fresh, where caching by policy is asked for.";
    Table "timeout.custom" = "", "at most 64 classes [a-z0-9_-], each with the keys of a class":
        "Your own classes, such as `[timeout.custom.nightly]`.";
    Mode "timeout.adaptive.mode" = "off", "off, observe or enforce": "Limits learned for each statement; they only tighten.";
    Number "timeout.adaptive.quantile" = "0.95", "0.5..=0.999": "The share of calls that is the yardstick.";
    Number "timeout.adaptive.factor" = "1.5", "1..=10": "The learned limit is the yardstick times this.";
    Integer "timeout.adaptive.min_samples" = "100", "20..=10000": "Calls seen before anything is believed.";
    Duration "timeout.adaptive.floor" = "50ms", "1ms..=24h": "No learned limit is shorter.";
    Number "timeout.adaptive.widen_share" = "0.05", "0.01..=0.5": "When more calls than this share pass it, the limit doubles.";
    Number "timeout.near_limit" = "0.8", "0.1..=1": "A call that used more than this share of its limit is told.";
    Duration "timeout.window" = "1m", "1s..=1h": "Durations are remembered over two such spans.";
    Integer "timeout.max_statements" = "2000", "1..=100000": "Statements that are remembered.";

    Mode "transaction.mode" = "enforce", "off, observe or enforce": "What the limit does.";
    Duration "transaction.timeout" = "1m", "1ms..=1h": "The limit from BEGIN to the end of COMMIT.";
    Duration "transaction.token_ttl" = "1day", "1m..=30days": "How long the key of a `transaction_once` is remembered.";

    Mode "retry.mode" = "enforce", "off, observe or enforce": "Whether a failed call is tried again.";
    Integer "retry.max_attempts" = "3", "1..=10": "Attempts in total, the first one included.";
    Word "retry.strategy" = "exponential", "exponential or decorrelated": "How pauses grow and spread.";
    Duration "retry.base_delay" = "50ms", "1ms..=cap": "The pause before the second attempt, after the connection failed.";
    Duration "retry.contention_delay" = "20ms", "1ms..=cap": "The same after a deadlock or serialization failure.";
    Duration "retry.overload_delay" = "250ms", "1ms..=cap": "The same when the server has too little of something.";
    Number "retry.multiplier" = "2.0", "1..=10": "Each pause is this many times the one before.";
    Number "retry.jitter" = "0.3", "0..=1": "Each pause is longer or shorter by up to this share.";
    Duration "retry.cap" = "1s", "1ms..=1h": "No pause is longer.";
    Number "retry.budget_ratio" = "0.1", "0..=1": "Retries of all callers together, as a share of their calls.";
    Integer "retry.budget_floor" = "10", "0..=1000": "Retries that are there when nothing has been saved yet.";
    Duration "retry.budget_span" = "10s", "1s..=1h": "Over so long, and longer, the share holds also for a burst.";
    Flag "retry.lock_timeouts" = "false", "true or false": "Whether 55P03 (`lock_timeout`, `NOWAIT`) is repeated.";
    Flag "retry.pooler" = "false", "true or false": "Whether a pooler such as PgBouncer stands before the server.";

    Mode "breaker.mode" = "enforce", "off, observe or enforce": "`observe` refuses nothing and counts how often it would have opened.";
    Number "breaker.failure_rate" = "0.5", "0.01..=1": "It opens when this share of the calls in either window failed.";
    Number "breaker.slow_rate" = "0.8", "0.01..=1": "The same for calls longer than `slow_call`.";
    DurationOrOff "breaker.slow_call" = "off", "1ms..=1h": "A call that took longer is slow.";
    Integer "breaker.minimum_calls" = "20", "1..=10000": "Nothing is concluded from fewer calls in a window.";
    Integer "breaker.window_calls" = "50", "minimum_calls..=10000": "The one window: so many last calls.";
    Duration "breaker.window_time" = "10s", "100ms..=1h": "The other window: the calls of so long.";
    Duration "breaker.open_wait" = "100ms", "1ms..=open_wait_cap": "The longest wait before the first probe; the wait is random up to it.";
    Duration "breaker.open_wait_cap" = "500ms", "1ms..=1h": "The wait doubles with each failed probe up to this.";
    Duration "breaker.probe_timeout" = "1s", "1ms..=1h": "How long a probe may take.";
    Integer "breaker.half_open_calls" = "3", "1..=1000": "Calls that must succeed after the probe, and are let through for it.";
    Duration "breaker.half_open_limit" = "10s", "1ms..=1h": "The longest stay in half-open.";
    Integer "breaker.slow_start_calls" = "8", "1..=10000": "So many calls at once after closing; twice as many each quarter of `slow_start`.";
    Duration "breaker.slow_start" = "400ms", "0s..=1h": "How long the slow start takes; `0s` is none.";

    Mode "replica.mode" = "enforce", "off, observe or enforce": "`observe` watches the nodes and moves nothing; without `urls` all do nothing.";
    Urls "replica.urls" = "", "URLs like postgres://host:port, separated by commas": "The other nodes, whichever role they have; what a URL leaves out is as for the connection.";
    Integer "replica.max_connections" = "0", "0..=10000": "The most connections to each node for reads; 0: as `pool.max_connections`.";
    Duration "replica.poll_interval" = "1s", "10ms..=1h": "The time between two looks at a node.";
    Duration "replica.search_interval" = "100ms", "10ms..=1h": "The same while no primary is known.";
    Duration "replica.discovery_interval" = "30s", "100ms..=24h": "The time between two questions of who the nodes are, where somebody answers them.";
    Duration "replica.probe_timeout" = "1s", "10ms..=1m": "How long a look may take.";
    Duration "replica.max_lag" = "10s", "1ms..=1h": "A replica that is further behind gets no reads until it is less than half as far.";
    Integer "replica.max_lag_bytes" = "0", "0..=1099511627776": "The same in bytes of WAL; 0: any number.";
    Duration "replica.causal_wait" = "250ms", "0s..=1m": "How long a read waits for a replica to show what its session has seen, before it goes to the primary.";
    Number "replica.fallback_share" = "0.2", "0.01..=1": "The share of the primary's connections for reads that no replica can serve.";
    Duration "replica.fallback_wait" = "1s", "1ms..=1m": "How long such a read waits for its place.";
    Duration "replica.latency_decay" = "1s", "100ms..=1h": "How slowly what was measured of a node's latency gives way to what is measured later.";
    Mode "replica.hedge" = "off", "off, observe or enforce": "Whether a slow read is sent to a second replica as well.";
    Duration "replica.hedge_after" = "50ms", "1ms..=1m": "How long a read runs before it is.";
    Number "replica.hedge_share" = "0.05", "0..=0.5": "The share of reads that may be sent twice.";

    Mode "health.mode" = "enforce", "off, observe or enforce": "`observe` watches, and readiness is never refused.";
    Duration "health.interval" = "10s", "1ms..=1h": "The time between two probes, give or take a fifth.";
    Duration "health.timeout" = "1s", "1ms..=interval": "How long a probe may take.";
    Duration "health.report_timeout" = "2s", "10ms..=1h": "How long a report may take in all.";
    Duration "health.report_every" = "1m", "0s..=24h": "How often the monitor makes a report of its own, for metrics; 0 never.";
    Integer "health.alert_after" = "3", "1..=100": "So many failed probes in a row are an alert.";
    Duration "health.unready_after" = "10s", "1ms..=1h": "Unready when the breaker was open, or nothing succeeded, for so long.";
    Duration "health.stalled_after" = "10s", "1s..=1h": "A runtime whose heartbeat is late by more is not alive.";
    Text "health.critical_tables" = "", "at most 50 names with commas in between": "Tables that must be readable.";
    Number "health.pool_saturation" = "0.9", "0.1..=1": "With this share in use, and callers waiting, the pool is degraded.";
    Number "health.failure_rate" = "0.05", "0.001..=1": "With this share of the recent calls failed, calls are degraded.";
    Number "health.slow_rate" = "0.1", "0.001..=1": "The same for calls slower than their class alerts at.";
    Duration "health.lease" = "1m", "1ms..=24h": "A lease that is out for longer may be leaked.";
    Duration "health.lag" = "10s", "1ms..=24h": "A standby further behind is degraded.";
    Duration "health.transaction" = "5m", "1ms..=24h": "A transaction open for longer is degraded.";
    Integer "health.xid_age" = "1000000000", "1000000..=1600000000": "The age of the oldest transaction id that is degraded.";
    Number "health.connections" = "0.8", "0.1..=1": "With this share of the server's connections taken it is degraded.";

    Mode "slow_query.mode" = "enforce", "off, observe or enforce": "`observe` counts and logs nothing.";
    Duration "slow_query.threshold" = "100ms", "0s..=1h": "A call that took longer, waiting included, is slow.";
    Integer "slow_query.per_second" = "10", "1..=100000": "Entries of one statement in one second; the others are counted.";
    Flag "slow_query.table" = "false", "true or false": "Whether entries go to the table `slow_queries` of the migrations.";
    Flag "slow_query.arguments" = "false", "true or false": "Whether the table shows arguments, which may hold secrets.";
    Integer "slow_query.queue" = "1024", "1..=100000": "Entries that may wait to be written; those beyond are dropped and counted.";
    Duration "slow_query.write_every" = "1s", "1ms..=1h": "How often entries are written.";
    Duration "slow_query.keep" = "14days", "1day..=3650days": "How long the table's days are kept.";

    Flag "metrics.enabled" = "true", "true or false": "Whether calls are counted.";
    Word "metrics.naming" = "report", "report or opentelemetry": "Whose names: the report's, or the semantic conventions'.";
    Text "metrics.namespace" = "ava", "[a-z_][a-z0-9_]*, at most 32 characters": "The first part of the report's names.";
    Word "metrics.exporter" = "prometheus", "prometheus or global":
        "`global`: the recorder that the application has installed for the `metrics` facade.";
    Text "metrics.listen" = "", "an address with a port, such as 127.0.0.1:9187":
        "Where the exporter and its live page listen; nowhere when empty.";
    Text "metrics.pool_name" = "", "at most 100 bytes, no control characters": "A label on every series, for several pools in one process.";
    Integer "metrics.max_statements" = "4096", "16..=1000000": "Statements whose tables are remembered.";
    Integer "metrics.max_tables" = "100", "0..=10000": "Tables with series of their own; the others share `other`.";
    Integer "metrics.max_tenants" = "50", "0..=10000": "The same for tenants.";

    Flag "tracing.enabled" = "true", "true or false": "Whether calls have spans, where a subscriber wants `db_stack` at `INFO`.";
    Number "tracing.sample" = "0.01", "0..=1": "The share of calls outside any span that begin a trace.";
    Flag "tracing.query_text" = "true", "true or false": "Whether a span shows the statement, without its literals.";
    Text "tracing.tags" = "", "at most 8 of `name=value`, with commas in between; names of a-z, 0-9 and _":
        "What the server is told behind each statement in a comment, in the way of sqlcommenter; nothing when empty.";

    Mode "cache.mode" = "enforce", "off, observe or enforce":
        "Nothing is kept for a caller who does not ask for it; `observe` counts hits and runs every query.";
    Duration "cache.ttl" = "30s", "1ms..=24h": "How long an answer is fresh when the call names no time.";
    Number "cache.jitter" = "0.1", "0..=0.5": "The share of an answer's time taken off at random.";
    Duration "cache.negative_ttl" = "1s", "1ms..=24h": "How long \"no such row\" is believed.";
    DurationOrOff "cache.stale_while_revalidate" = "off", "1ms..=24h":
        "For how long past its time an answer is given while it is read again.";
    DurationOrOff "cache.stale_if_error" = "off", "1ms..=24h":
        "For how long past its time an answer is given while the database can't be reached.";
    Integer "cache.max_mib" = "64", "1..=1048576": "What all answers may take together, in MiB.";
    Integer "cache.max_entry_kib" = "1024", "1..=1048576": "What one answer may take, in KiB; at most a sixteenth of all.";
    Flag "cache.listen" = "true", "true or false": "Hear of other writers, over one direct connection beside the pool.";
    Duration "cache.heartbeat" = "1s", "10ms..=1h":
        "How often that connection is tested; unproved for two of these, nothing is given out of memory.";
    Duration "cache.schema_check" = "5s", "10ms..=24h": "How often the schema is compared with what is known of it.";
    Duration "cache.in_doubt" = "30s", "1ms..=24h": "How long the tables of a write of unknown outcome are not cached.";
    Integer "cache.max_statements" = "2000", "1..=100000": "Statements that are counted one by one.";

    Mode "leak.mode" = "observe", "off, observe or enforce": "`observe` reports and takes nothing away; `enforce` reclaims.";
    Duration "leak.threshold" = "30s", "1ms..=24h": "A lease of another class than slow or batch that is out for longer is suspect.";
    Duration "leak.slow_threshold" = "1m 30s", "1ms..=24h": "The same for the class slow.";
    DurationOrOff "leak.batch_threshold" = "off", "1ms..=24h": "The same for the class batch.";
    Table "leak.custom" = "", "at most 64 classes, each with a time or off": "The same for your own classes, such as `nightly = \"1h\"`.";
    Duration "leak.reclaim_after" = "5m", "1ms..=24h": "With `enforce`, a suspect that is out for longer is taken back.";
    Mode "leak.nested" = "enforce", "off, observe or enforce":
        "What is done about a task that holds a lease and waits for another one of an exhausted pool.";
    Duration "leak.nested_wait" = "100ms", "2ms..=1h": "How long such a task waits before it is refused.";
    Number "leak.backtrace_sample" = "0.0", "0..=1": "The share of leases that keep a backtrace.";
};

/// The names of the report's Appendix A, and the keys that they became.
pub const REPORT_NAMES: &[(&str, &str)] = &[
    ("host", "connection.host"),
    ("port", "connection.port"),
    ("database", "connection.database"),
    ("user", "connection.user"),
    ("password", "connection.password"),
    ("min_pool_size", "pool.min_connections"),
    ("max_pool_size", "pool.max_connections"),
    ("connect_timeout", "pool.connect_timeout"),
    ("command_timeout", "timeout.normal.timeout"),
    ("statement_timeout", "session.statement_timeout"),
    ("transaction_timeout", "transaction.timeout"),
    ("max_retries", "retry.max_attempts"),
    ("retry_delay", "retry.base_delay"),
    ("retry_backoff", "retry.multiplier"),
    ("retry_jitter", "retry.jitter"),
    ("health_check_interval", "health.interval"),
    ("health_check_timeout", "health.timeout"),
    ("max_connection_age", "pool.max_lifetime"),
    ("max_idle_time", "pool.idle_timeout"),
    ("enable_slow_query_log", "slow_query.mode"),
    ("slow_query_threshold_ms", "slow_query.threshold"),
    ("enable_query_cache", "cache.mode"),
    ("query_cache_ttl", "cache.ttl"),
    ("enable_prepared_statements", "connection.statement_cache_capacity"),
    ("enable_leak_detection", "leak.mode"),
    ("leak_detection_threshold", "leak.threshold"),
];
