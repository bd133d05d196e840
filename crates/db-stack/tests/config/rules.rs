//! Every rule and its message.

use crate::{message, toml_error};
use db_core::config::Checks;
use db_pool::PoolConfig;
use db_stack::config::{DbConfig, KEYS, Secret};

#[test]
fn unknown_keys_name_the_nearest() {
    for (toml, nearest) in [
        ("pool.max_conections = 1", "pool.max_connections"),
        ("pol.max_connections = 1", "pool.max_connections"),
        ("connection.max_connections = 1", "pool.max_connections"),
        ("pool.max_pool_size = 1", "pool.max_connections"),
        ("enable_query_cache = true", "cache.mode"),
        ("session.statment_timeout = '1s'", "session.statement_timeout"),
        ("[caches]", "cache.ttl"),
    ] {
        let error = toml_error(toml);
        assert!(error.contains(&format!("the nearest is {nearest}")), "{toml}: {error}");
    }
    let error = toml_error("leak = true");
    assert_eq!(
        error,
        "leak = *** (from TOML): allowed is a section with mode, threshold, slow_threshold, batch_threshold, custom, reclaim_after, nested, \
         nested_wait, backtrace_sample"
    );
}

#[test]
fn wrong_types_are_all_reported() {
    let error = toml_error("[pool]\nmax_connections = \"many\"\nacquire_timeout = 5\nadmission = \"on\"");
    assert_eq!(
        error,
        "pool.acquire_timeout = 5 (from TOML): allowed is duration, 1ms..=1h; \
         pool.admission = on (from TOML): allowed is mode, off, observe or enforce; \
         pool.max_connections = many (from TOML): allowed is whole number, 1..=10000"
    );
    let error = message(
        DbConfig::load()
            .env_from("X_", [("X_CONNECTION__PORT", "70000")])
            .build(),
    );
    assert_eq!(
        error,
        "connection.port = 70000 (from X_CONNECTION__PORT): allowed is whole number, 1..=65535"
    );
    assert_eq!(
        toml_error("\n[pool\n"),
        "TOML = line 2: allowed is TOML (the line does not parse)"
    );
}

/// Each rule: a setting that breaks it, and the message.
#[test]
fn every_rule_names_key_value_and_range() {
    let hour = "1ms..=1h";
    let day = "1ms..=1day";
    let from_zero = "0s..=1h";
    let ms = "1ms..=24days 20h 31m 23s 647ms";
    let plain = "text without control characters, not empty";
    let secret = Secret::from("a\0b");
    let long = "x".repeat(64);
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "connection.host",
            "a\u{1}b",
            r"a\u{1}b",
            "a host, an IP address or a socket's folder; a URL belongs in url",
        ),
        (
            "connection.host",
            "u:p@h",
            "***",
            "a host, an IP address or a socket's folder; a URL belongs in url",
        ),
        ("connection.port", "0", "0", "1..=65535"),
        ("connection.database", "a\0b", r"a\0b", plain),
        ("connection.user", "a\0b", r"a\0b", plain),
        ("connection.user", "", "", plain),
        ("connection.ssl_root_cert", "a\nb", r"a\nb", plain),
        ("connection.password", secret.expose(), "***", "text without NUL"),
        (
            "connection.password",
            "***",
            "***",
            "the password itself, not the mask of a dump",
        ),
        ("connection.statement_cache_capacity", "100001", "100001", "0..=100000"),
        ("pool.max_connections", "10001", "10001", "1..=10000"),
        ("pool.min_connections", "11", "11", "0..=10"),
        ("pool.max_waiting", "0", "0", "1..=1000000"),
        ("pool.acquire_timeout", "2h", "2h", hour),
        ("pool.connect_timeout", "0s", "0s", hour),
        ("pool.connect_parallelism", "0", "0", "1..=1000"),
        ("pool.connect_backoff_base", "0s", "0s", "at least 1ms"),
        (
            "pool.connect_backoff_base",
            "1s",
            "1s",
            "not longer than pool.connect_backoff_cap (400ms)",
        ),
        ("pool.connect_backoff_cap", "2h", "2h", hour),
        ("pool.idle_timeout", "1us", "1us", "at least 1ms"),
        ("pool.max_lifetime", "1us", "1us", "at least 1ms"),
        ("pool.lifetime_jitter", "0.95", "0.95", "0..=0.9"),
        ("pool.lifetime_jitter", "NaN", "NaN", "0..=0.9"),
        ("pool.validate_after", "61m", "1h 1m", from_zero),
        ("pool.validation_timeout", "0s", "0s", "at least 1ms"),
        (
            "pool.validation_timeout",
            "6s",
            "6s",
            "not longer than pool.acquire_timeout (5s)",
        ),
        ("pool.quarantine_timeout", "0s", "0s", hour),
        ("pool.drain_timeout", "2h", "2h", from_zero),
        ("pool.slow_acquire", "2h", "2h", from_zero),
        ("pool.shed_target", "0s", "0s", hour),
        ("pool.shed_interval", "2h", "2h", hour),
        ("pool.tenant_share", "0", "0", "0.001..=1"),
        ("pool.priorities.critical.floor", "11", "11", "0..=10"),
        ("pool.priorities.critical.ceiling", "10001", "10001", "1..=10000"),
        ("pool.priorities.critical.spare", "10001", "10001", "0..=10000"),
        ("pool.priorities.high.floor", "21", "21", "0..=20"),
        ("pool.priorities.high.ceiling", "10001", "10001", "1..=10000"),
        ("pool.priorities.high.spare", "10001", "10001", "0..=10000"),
        ("pool.priorities.normal.floor", "31", "31", "0..=30"),
        ("pool.priorities.normal.ceiling", "10001", "10001", "1..=10000"),
        ("pool.priorities.normal.spare", "10001", "10001", "0..=10000"),
        ("pool.priorities.background.floor", "11", "11", "0..=10"),
        ("pool.priorities.background.ceiling", "0", "0", "1..=10000"),
        ("pool.priorities.background.spare", "10001", "10001", "0..=10000"),
        ("pool.statements.prepare_from", "0", "0", "1..=1000000"),
        ("pool.statements.warm", "1001", "1001", "0..=1000"),
        ("pool.statements.warm_within", "0s", "0s", hour),
        ("pool.limit.min", "101", "101", "1..=100"),
        ("pool.limit.absolute_max", "10001", "10001", "1..=10000"),
        ("pool.limit.window", "1ms", "1ms", "10ms..=1h"),
        ("pool.limit.target_utilization", "0.2", "0.2", "0.3..=1"),
        ("pool.limit.scale_interval", "2h", "2h", "10ms..=1h"),
        ("pool.limit.census_interval", "2h", "2h", "10ms..=1h"),
        ("pool.priorities.ageing", "0s", "0s", hour),
        ("pool.priorities.reserve_for", "0s", "0s", hour),
        (
            "session.application_name",
            "a\0b",
            r"a\0b",
            "at most 63 bytes, no control characters",
        ),
        (
            "session.application_name",
            &long,
            &long,
            "at most 63 bytes, no control characters",
        ),
        ("session.statement_timeout", "1us", "1us", ms),
        ("session.lock_timeout", "25days", "25days", ms),
        ("session.idle_in_transaction_session_timeout", "1us", "1us", ms),
        ("session.client_connection_check_interval", "1us", "1us", ms),
        ("session.tcp_keepalives_idle", "1ms", "1ms", "1s..=9h"),
        ("session.tcp_keepalives_interval", "0s", "0s", "1s..=9h"),
        ("session.tcp_keepalives_count", "128", "128", "1..=127"),
        ("session.tcp_user_timeout", "1us", "1us", ms),
        ("session.extra.Bad Name", "1", "(name)", "a name like [a-z_][a-z0-9_.]*"),
        (
            "session.extra.work_mem",
            "1\0",
            r"1\0",
            "text without control characters",
        ),
        (
            "tenants.pattern",
            "(",
            "(",
            "a regular expression of at most 1000 bytes",
        ),
        ("tenants.schema", "tenant", "tenant", "a name with {id} in it"),
        ("tenants.database", "{id}{id}", "{id}{id}", "a name with {id} in it"),
        ("tenants.shared_schemas", "a\0", r"a\0", "names separated by commas"),
        ("tenants.setting", "tenant", "tenant", "a name like app.tenant"),
        ("timeout.instant.timeout", "0s", "0s", day),
        ("timeout.instant.alert", "0s", "0s", day),
        ("timeout.instant.cache_ttl", "1us", "1us", day),
        ("timeout.fast.timeout", "0s", "0s", day),
        ("timeout.fast.alert", "0s", "0s", day),
        ("timeout.fast.cache_ttl", "1us", "1us", day),
        ("timeout.normal.timeout", "0s", "0s", day),
        ("timeout.normal.alert", "0s", "0s", day),
        ("timeout.normal.cache_ttl", "1us", "1us", day),
        ("timeout.slow.timeout", "0s", "0s", day),
        ("timeout.slow.alert", "0s", "0s", day),
        ("timeout.slow.cache_ttl", "1us", "1us", day),
        ("timeout.batch.timeout", "0s", "0s", day),
        ("timeout.batch.alert", "0s", "0s", day),
        ("timeout.batch.cache_ttl", "1us", "1us", day),
        ("timeout.adaptive.quantile", "1", "1", "0.5..=0.999"),
        ("timeout.adaptive.factor", "0.5", "0.5", "1..=10"),
        ("timeout.adaptive.min_samples", "1", "1", "20..=10000"),
        ("timeout.adaptive.floor", "0s", "0s", day),
        ("timeout.adaptive.widen_share", "0.6", "0.6", "0.01..=0.5"),
        ("timeout.near_limit", "0", "0", "0.1..=1"),
        ("timeout.window", "0s", "0s", "1s..=1h"),
        ("timeout.max_statements", "0", "0", "1..=100000"),
        ("transaction.timeout", "0s", "0s", hour),
        ("transaction.token_ttl", "1s", "1s", "1m..=30days"),
        ("retry.max_attempts", "0", "0", "1..=10"),
        ("retry.base_delay", "0s", "0s", "at least 1ms"),
        ("retry.contention_delay", "0s", "0s", "at least 1ms"),
        ("retry.overload_delay", "0s", "0s", "at least 1ms"),
        ("retry.base_delay", "2s", "2s", "not longer than retry.cap (1s)"),
        ("retry.multiplier", "0.5", "0.5", "1..=10"),
        ("retry.jitter", "1.5", "1.5", "0..=1"),
        ("retry.cap", "2h", "2h", hour),
        ("retry.budget_ratio", "1.5", "1.5", "0..=1"),
        ("retry.budget_floor", "1001", "1001", "0..=1000"),
        ("retry.budget_span", "1ms", "1ms", "1s..=1h"),
        ("breaker.failure_rate", "0", "0", "0.01..=1"),
        ("breaker.slow_rate", "1.5", "1.5", "0.01..=1"),
        ("breaker.slow_call", "2h", "2h", hour),
        ("breaker.minimum_calls", "0", "0", "1..=10000"),
        ("breaker.window_calls", "19", "19", "minimum_calls (20)..=10000"),
        ("breaker.window_time", "1ms", "1ms", "100ms..=1h"),
        ("breaker.open_wait", "0s", "0s", "at least 1ms"),
        (
            "breaker.open_wait",
            "2s",
            "2s",
            "not longer than breaker.open_wait_cap (500ms)",
        ),
        ("breaker.open_wait_cap", "2h", "2h", hour),
        ("breaker.probe_timeout", "0s", "0s", hour),
        ("breaker.half_open_calls", "0", "0", "1..=1000"),
        ("breaker.half_open_limit", "0s", "0s", hour),
        ("breaker.slow_start_calls", "0", "0", "1..=10000"),
        ("breaker.slow_start", "2h", "2h", from_zero),
        (
            "replica.urls",
            "mysql://u:secret@h",
            "***",
            "URLs like postgres://host:port, separated by commas",
        ),
        ("replica.max_connections", "10001", "10001", "0..=10000"),
        ("replica.poll_interval", "1ms", "1ms", "10ms..=1h"),
        ("replica.search_interval", "2h", "2h", "10ms..=1h"),
        ("replica.discovery_interval", "1ms", "1ms", "100ms..=1day"),
        ("replica.probe_timeout", "2m", "2m", "10ms..=1m"),
        ("replica.max_lag", "0s", "0s", "1ms..=1h"),
        (
            "replica.max_lag_bytes",
            "1099511627777",
            "1099511627777",
            "0..=1099511627776",
        ),
        ("replica.causal_wait", "2m", "2m", "0s..=1m"),
        ("replica.fallback_share", "0", "0", "0.01..=1"),
        ("replica.fallback_wait", "0s", "0s", "1ms..=1m"),
        ("replica.latency_decay", "1ms", "1ms", "100ms..=1h"),
        ("replica.hedge_after", "0s", "0s", "1ms..=1m"),
        ("replica.hedge_share", "0.6", "0.6", "0..=0.5"),
        ("health.interval", "2h", "2h", hour),
        ("health.timeout", "11s", "11s", "not longer than health.interval (10s)"),
        ("health.report_timeout", "1ms", "1ms", "10ms..=1h"),
        ("health.report_every", "2days", "2days", "0s..=1day"),
        ("health.alert_after", "0", "0", "1..=100"),
        ("health.unready_after", "0s", "0s", hour),
        ("health.stalled_after", "1ms", "1ms", "1s..=1h"),
        (
            "health.critical_tables",
            "a.b.c",
            "a.b.c",
            "at most 50 names, `table` or `schema.table`, of at most 63 bytes, with commas in between",
        ),
        ("health.pool_saturation", "0", "0", "0.1..=1"),
        ("health.failure_rate", "0", "0", "0.001..=1"),
        ("health.slow_rate", "2", "2", "0.001..=1"),
        ("health.lease", "0s", "0s", "1ms..=1day"),
        ("health.lag", "0s", "0s", "1ms..=1day"),
        ("health.transaction", "0s", "0s", "1ms..=1day"),
        ("health.xid_age", "1", "1", "1000000..=1600000000"),
        ("health.connections", "0", "0", "0.1..=1"),
        ("slow_query.threshold", "2h", "2h", from_zero),
        ("slow_query.per_second", "0", "0", "1..=100000"),
        ("slow_query.queue", "0", "0", "1..=100000"),
        ("slow_query.write_every", "0s", "0s", hour),
        (
            "slow_query.keep",
            "1h",
            "1h",
            "1day..=9years 11months 27days 21h 50m 24s",
        ),
        (
            "metrics.namespace",
            "9a",
            "9a",
            "[a-z_][a-z0-9_]*, at most 32 characters",
        ),
        (
            "metrics.listen",
            "here",
            "here",
            "an address with a port, such as 127.0.0.1:9187, or nothing",
        ),
        (
            "metrics.pool_name",
            "a\0b",
            r"a\0b",
            "at most 100 bytes, no control characters",
        ),
        ("metrics.max_statements", "1", "1", "16..=1000000"),
        ("metrics.max_tables", "10001", "10001", "0..=10000"),
        ("metrics.max_tenants", "10001", "10001", "0..=10000"),
        ("tracing.sample", "2", "2", "0..=1"),
        (
            "tracing.tags",
            "no tag",
            "no tag",
            "at most 8 of `name=value`, with commas in between; names of a-z, 0-9 and _",
        ),
        ("cache.ttl", "0s", "0s", "1ms..=1day"),
        ("cache.jitter", "0.6", "0.6", "0..=0.5"),
        ("cache.negative_ttl", "25h", "1day 1h", "1ms..=1day"),
        ("cache.stale_while_revalidate", "25h", "1day 1h", "1ms..=1day"),
        ("cache.stale_if_error", "25h", "1day 1h", "1ms..=1day"),
        ("cache.max_mib", "0", "0", "1..=1048576"),
        ("cache.max_entry_kib", "0", "0", "1..=1048576"),
        ("cache.heartbeat", "1ms", "1ms", "10ms..=1h"),
        ("cache.schema_check", "1ms", "1ms", "10ms..=1day"),
        ("cache.in_doubt", "0s", "0s", "1ms..=1day"),
        ("cache.max_statements", "0", "0", "1..=100000"),
        ("leak.threshold", "0s", "0s", day),
        ("leak.slow_threshold", "2days", "2days", day),
        ("leak.batch_threshold", "1us", "1us", day),
        ("leak.custom.nightly", "1us", "1us", day),
        ("leak.reclaim_after", "0s", "0s", day),
        ("leak.nested_wait", "1ms", "1ms", "2ms..=1h"),
        ("leak.backtrace_sample", "1.5", "1.5", "0..=1"),
    ];
    for (key, given, value, allowed) in cases {
        let error = DbConfig::load().with(key, *given).build().unwrap_err();
        let expected = (key.to_string(), format!("{value} (from override)"), allowed.to_string());
        let found: Vec<_> = error
            .keys()
            .iter()
            .map(|k| (k.key.clone(), k.value.clone(), k.allowed.clone()))
            .collect();
        assert!(found.contains(&expected), "{expected:?} not in {found:?}");
    }
    // Every key that has a range is in the list, apart from words, which the type checks.
    let words = [
        "mode",
        "admission",
        "ssl_mode",
        "url",
        "extra",
        ".retry",
        ".custom",
        ".lock_timeouts",
        ".pooler",
        ".strategy",
        ".nested",
        ".enabled",
        ".naming",
        ".exporter",
        ".table",
        ".arguments",
        ".query_text",
        ".policy",
        ".listen",
        "replica.hedge",
    ];
    for key in KEYS
        .iter()
        .filter(|key| !words.iter().any(|word| key.name.ends_with(word)))
    {
        assert!(cases.iter().any(|case| case.0 == key.name), "no case for {}", key.name);
    }
    let mut checks = Checks::default();
    PoolConfig {
        max_connections: 0,
        ..PoolConfig::default()
    }
    .validate("", &mut checks);
    let both = checks.finish().unwrap_err();
    assert_eq!(both.keys().len(), 2, "all violations at once: {both}");
    assert_eq!(both.keys()[0].key, "max_connections");
}
