//! The configuration: sources and their order, every rule with its message, secrets, and the reference page.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use db_core::config::{Checks, InvalidConfig, Mode};
use db_pool::{PoolConfig, SessionConfig};
use db_stack::config::{
    CacheConfig, ConnectionConfig, DatabaseUrl, DbConfig, HealthConfig, KEYS, LeakConfig, REPORT_NAMES, RetryConfig,
    Secret, SlowQueryConfig, SslMode, TimeoutConfig, TransactionConfig, render_reference,
};

const CANARY: &str = "canary-7f3a";
const NONE: [(&str, &str); 0] = [];

/// Whether this is the child process, whose environment is known; the parent waits for it.
fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if std::env::var_os("CONFIG_TEST_CHILD").is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PG") || name.starts_with("DB_STACK_") || name == "DATABASE_URL" {
            child.env_remove(&name);
        }
    }
    child
        .args(["--exact", test, "--nocapture"])
        .env("CONFIG_TEST_CHILD", "1")
        .envs(variables.iter().copied());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn message(result: Result<DbConfig, InvalidConfig>) -> String {
    let text = result.unwrap_err().to_string();
    text.strip_prefix("invalid configuration: ").unwrap().to_owned()
}

fn toml_error(text: &str) -> String {
    message(DbConfig::from_toml_str(text))
}

#[test]
fn toml_sets_keys_and_leaves_the_rest() {
    let config = DbConfig::from_toml_str(
        r#"
        [connection]
        host = "localhost"
        ssl_mode = "disable"
        [pool]
        max_connections = 20
        acquire_timeout = "1500ms"
        idle_timeout = "off"
        max_lifetime = "0s"
        lifetime_jitter = 0
        admission = "observe"
        [session]
        lock_timeout = "never"
        extra = { work_mem = "64MB", geqo = false, "pgaudit.log" = "all" }
        [cache]
        "#,
    )
    .unwrap();
    let expected = DbConfig {
        connection: ConnectionConfig {
            host: Some("localhost".to_owned()),
            ssl_mode: Some(SslMode::Disable),
            ..ConnectionConfig::default()
        },
        pool: PoolConfig {
            max_connections: 20,
            acquire_timeout: Duration::from_millis(1500),
            idle_timeout: None,
            max_lifetime: None,
            lifetime_jitter: 0.0,
            admission: Mode::Observe,
            ..PoolConfig::default()
        },
        session: SessionConfig {
            lock_timeout: None,
            extra: [("geqo", "false"), ("pgaudit.log", "all"), ("work_mem", "64MB")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..SessionConfig::default()
        },
        ..DbConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn the_environment_sets_keys() {
    let variables = [
        ("APP_POOL__MAX_CONNECTIONS", "7"),
        ("APP_RETRY__JITTER", "0.5"),
        ("APP_CONNECTION__PASSWORD", "0123"),
        ("APP_SESSION__EXTRA__PGAUDIT__LOG", "all"),
        ("APP_CACHE__MODE", "observe"),
        ("APP_PG_BIN", "not ours: no such section"),
        ("OTHER_POOL__MAX_CONNECTIONS", "9"),
    ];
    let config = DbConfig::load().env_from("APP_", variables).build().unwrap();
    assert_eq!(config.pool.max_connections, 7);
    assert_eq!(config.retry.jitter, 0.5);
    assert_eq!(config.connection.password.unwrap().expose(), "0123", "digits stay text");
    assert_eq!(config.session.extra["pgaudit.log"], "all");
    assert_eq!(config.cache.mode, Mode::Observe);
    let error = message(
        DbConfig::load()
            .env_from("APP_", [("APP_POOL_MAX_CONNECTIONS", "7")])
            .build(),
    );
    assert_eq!(
        error,
        "pool_max_connections = *** (from APP_POOL_MAX_CONNECTIONS): allowed is a known key; the nearest is \
         pool.max_connections"
    );
}

#[test]
fn the_real_environment_is_read() {
    let variables = [
        ("DB_STACK_POOL__MAX_WAITING", "5"),
        ("DATABASE_URL", "postgres://app@localhost/orders"),
    ];
    if in_child("the_real_environment_is_read", &variables) {
        let config = DbConfig::from_env(DbConfig::ENV_PREFIX).unwrap();
        assert_eq!(config.pool.max_waiting, 5);
        assert_eq!(config.connect_options().unwrap().get_database(), Some("orders"));
    }
}

#[test]
fn database_url_is_the_last_resort() {
    let url = ("DATABASE_URL", "postgres://localhost/ambient");
    let taken = |config: DbConfig| config.connection.url.map(|url| url.expose().to_owned());
    let load = || DbConfig::load().env_from("X_", [url]);
    assert_eq!(taken(load().build().unwrap()).as_deref(), Some(url.1));
    let set = load()
        .with("connection.url", "postgres://localhost/set")
        .build()
        .unwrap();
    assert_eq!(taken(set).as_deref(), Some("postgres://localhost/set"));
    assert_eq!(
        taken(load().with("connection.host", "localhost").build().unwrap()),
        None
    );
    assert_eq!(
        taken(DbConfig::load().env_from("X_", [("DATABASE_URL", "")]).build().unwrap()),
        None
    );
}

#[test]
fn a_later_source_wins() {
    let dir = tempdir("order");
    let file = dir.join("db.toml");
    fs::write(
        &file,
        "[pool]\nmax_connections = 3\nmin_connections = 1\nmax_waiting = 30\n",
    )
    .unwrap();
    let variables = [("A_POOL__MAX_CONNECTIONS", "4"), ("A_POOL__MAX_WAITING", "40")];
    let load = || {
        DbConfig::load()
            .optional_file(dir.join("none.toml"))
            .file(&file)
            .env_from("A_", variables)
    };
    let pool = load()
        .with("pool.max_connections", 5)
        .with("pool.acquire_timeout", Duration::from_secs(1))
        .with("pool.idle_timeout", None)
        .build()
        .unwrap()
        .pool;
    assert_eq!(
        (pool.max_connections, pool.max_waiting, pool.min_connections),
        (5, 40, 1)
    );
    assert_eq!(
        (pool.acquire_timeout, pool.idle_timeout),
        (Duration::from_secs(1), None)
    );
    // Text in an override is read as in the environment, and a violation names its source.
    let error = message(
        load()
            .with("pool.max_connections", "0")
            .with("pool.min_connections", 0)
            .build(),
    );
    assert_eq!(error, "pool.max_connections = 0 (from override): allowed is 1..=10000");
    let error = message(DbConfig::from_toml_file(dir.join("none.toml")));
    assert!(
        error.contains("none.toml: allowed is a readable TOML file (No such file"),
        "{error}"
    );
    fs::remove_dir_all(dir).unwrap();
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("db-stack-config-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

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
        "leak = *** (from TOML): allowed is a section with mode, threshold"
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
        ("timeout.default", "0s", "0s", hour),
        ("transaction.timeout", "0s", "0s", hour),
        ("retry.max_attempts", "0", "0", "1..=10"),
        ("retry.base_delay", "0s", "0s", hour),
        ("retry.multiplier", "0.5", "0.5", "1..=10"),
        ("retry.jitter", "1.5", "1.5", "0..=1"),
        ("health.interval", "2h", "2h", hour),
        ("health.timeout", "11s", "11s", "not longer than health.interval (10s)"),
        ("slow_query.threshold", "2h", "2h", from_zero),
        ("cache.ttl", "0s", "0s", "1ms..=1day"),
        ("leak.threshold", "0s", "0s", "1ms..=1day"),
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
    let words = ["mode", "admission", "ssl_mode", "url", "extra"];
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

#[test]
fn secrets_never_show() {
    let url = format!("postgres://app:{CANARY}@localhost:5433/orders?password={CANARY}&x={CANARY}&sslmode=disable");
    let config = DbConfig {
        connection: ConnectionConfig {
            url: Some(DatabaseUrl::from(url)),
            password: Some(Secret::from(CANARY)),
            ..ConnectionConfig::default()
        },
        ..DbConfig::default()
    };
    let loader = DbConfig::load()
        .with("connection.password", CANARY)
        .env_from("X_", [("X_CONNECTION__URL", CANARY)]);
    let shown = [
        format!("{config:?}"),
        format!("{config:#?}"),
        toml::to_string(&config).unwrap(),
        serde_json::to_string(&config).unwrap(),
        format!("{loader:?}"),
        message(loader.build()),
        format!("{:?}", config.inactive_keys()),
        format!("{:?}", db_stack::config::Setting::from(CANARY)),
        format!(
            "{:?}",
            serde_json::from_str::<DbConfig>(r#"{"connection":{"password":737373}}"#).unwrap_err()
        ),
        toml_error("connection.password = 737373"),
    ];
    for text in &shown {
        assert!(!text.contains(CANARY) && !text.contains("737373"), "{text}");
    }
    let masked = "postgres://app:***@localhost:5433/orders?password=***&x=***&sslmode=disable";
    assert_eq!(config.connection.url.unwrap().to_string(), masked);
    assert_eq!(config.connection.password.unwrap().to_string(), "***");
}

#[test]
fn errors_never_show_a_password() {
    let toml = [
        format!("connection.password = {CANARY}"),
        format!("connection.password = \"{CANARY}"),
        format!("connection.pasword = \"{CANARY}\""),
        format!("connection = \"postgres://u:{CANARY}@h/d\""),
        format!("connection.password = [\"{CANARY}\"]"),
        format!("connection.host = \"postgres://u:{CANARY}@h/d\""),
        format!("connection.password = \"{CANARY}\\u0000\""),
    ];
    for text in &toml {
        let error = toml_error(text);
        assert!(!error.contains(CANARY), "{error}");
    }
    // A password that was not percent-encoded ends up in odd places.
    for url in [
        "postgres://u:{}/x@h/d",
        "postgres://u:{}?x@h/d",
        "postgres://u:{}#x@h/d",
        "postgres://u:1/{}@h/d",
        "postgres://u:1?{}@h/d",
        "postgres://u:1?x={}@h/d",
        "postgres://u:1#{}@h/d",
        "postgres://u:{}%00@h/d",
        "postgres://u:{}%ff@h/d",
        "postgres://u:{}@h:port/d",
        "mysql://u:{}@h/d",
        "u:{}@h/d",
        "{}",
        "postgres://u:{}@h/d?pasword={}",
        "postgres://u:{}@h/d?password={}%00",
        "postgres://u:{}@h/d?sslmode=x",
    ] {
        let url = url.replace("{}", CANARY);
        let error = DbConfig::from_url(&url).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{url}: {error}");
        let shown = format!("{:?}", DatabaseUrl::from(url.as_str()));
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[test]
fn a_nul_is_refused_in_every_part_of_a_url() {
    for url in [
        "postgres://a%00b@localhost/d",
        "postgres://u@localhost/d%00options",
        "postgres://u@%2Ftmp%00/d",
        "postgres://u:p%00@localhost/d",
        "postgres://u@localhost/d?user=a%00",
        "postgres://u@localhost/d?dbname=a%00",
        "postgres://u@localhost/d?host=a%00",
        "postgres://u@localhost/d?application_name=a%00b",
        "postgres://u@localhost/d?options=-c%00x",
        "postgres://u@localhost/d?options[x]=a%00b",
        "postgres://u@localhost/d?options[x%00]=a",
        "postgres://u@localhost/d?password=a%00",
        "postgres://a%0Ab@h/d",
        "postgres://u@localhost/d?application_name=%1b[31m",
    ] {
        let error = DbConfig::from_url(url).map(|_| url).unwrap_err();
        assert_eq!(error.keys()[0].key, "connection.url", "{url}");
        assert!(error.to_string().contains("without"), "{url}: {error}");
        let raw = DbConfig {
            connection: ConnectionConfig {
                url: Some(url.into()),
                ..ConnectionConfig::default()
            },
            ..DbConfig::default()
        };
        assert!(raw.connect_options().is_err(), "{url}");
    }
}

#[test]
fn urls_and_parts_reach_sqlx() {
    if !in_child("urls_and_parts_reach_sqlx", &[]) {
        return;
    }
    let get = |url: &str| {
        let o = DbConfig::from_url(url).unwrap().connect_options().unwrap();
        let socket = o.get_socket().map(|path| path.display().to_string());
        (
            socket.unwrap_or(o.get_host().to_owned()),
            o.get_port(),
            o.get_username().to_owned(),
            o.get_database().map(str::to_owned),
        )
    };
    let is = |host: &str, port, user: &str, database: &str| {
        (host.to_owned(), port, user.to_owned(), Some(database.to_owned()))
    };
    assert_eq!(get("postgres://u:p@localhost:5433/d"), is("localhost", 5433, "u", "d"));
    assert_eq!(get("postgresql://u@localhost/d"), is("localhost", 5432, "u", "d"));
    assert_eq!(
        get("postgres:///d?host=/var/run/pg&port=5&user=u"),
        is("/var/run/pg", 5, "u", "d")
    );
    assert_eq!(
        get("postgres:///d?host=%2Ftmp%2Fx&user=u"),
        is("/tmp/x", 5432, "u", "d")
    );
    assert_eq!(get("postgres://u@%2Ftmp%2Fx/d"), is("/tmp/x", 5432, "u", "d"));
    assert_eq!(
        get("postgres://u%40corp:p%2F%3F@localhost/d%20e"),
        is("localhost", 5432, "u@corp", "d e")
    );
    assert_eq!(get("postgres://u@[::1]:5433/d"), is("[::1]", 5433, "u", "d"));

    let parts = DbConfig::load()
        .with("connection.host", "db.internal")
        .with("connection.port", 6000);
    let parts = parts
        .with("connection.user", "ü&=")
        .with("connection.database", "a/b c%41")
        .build()
        .unwrap();
    let options = parts.connect_options().unwrap();
    assert_eq!((options.get_host(), options.get_port()), ("db.internal", 6000));
    assert_eq!(
        (options.get_username(), options.get_database()),
        ("ü&=", Some("a/b c%41"))
    );

    let both = DbConfig::load()
        .with("connection.url", "postgres://localhost/d")
        .with("connection.user", "u");
    let error = message(both.with("connection.port", 1).build());
    assert!(
        error.ends_with("either a URL or its parts, and port, user is set too"),
        "{error}"
    );

    // What nobody reads is told, not sent to sqlx, and a misspelt parameter is an error.
    let ignored = DbConfig::from_url("postgres://localhost/d?channel_binding=require&sslmode=require").unwrap();
    assert_eq!(ignored.inactive_keys(), ["connection.url?channel_binding"]);
    for (url, expected) in [
        (
            "postgres://h/d?ssmode=require",
            "ssmode=***: allowed is a known parameter; the nearest is sslmode",
        ),
        (
            "postgres://h/d?sslmode=on",
            "sslmode=on: allowed is disable, allow, prefer, require, verify-ca or verify-full",
        ),
        ("postgres://h/d?port=x", "port=x: allowed is 1..=65535"),
        ("postgres://h/d?hostaddr=x", "hostaddr=x: allowed is an IP address"),
        (
            "postgres://h/d?statement-cache-capacity=x",
            "statement-cache-capacity=x: allowed is a number",
        ),
        (
            "postgres://%2Ftmp/d?host=h",
            "host=h: allowed is one host: the URL names a socket before",
        ),
    ] {
        assert_eq!(message(DbConfig::from_url(url)), format!("connection.url = {expected}"));
    }
}

#[test]
fn a_remote_server_needs_a_verified_certificate() {
    if in_child("a_remote_server_needs_a_verified_certificate", &[]) {
        let mode = |url: &str| ssl_mode(DbConfig::from_url(url).unwrap());
        for local in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "%2Ftmp", "LOCALHOST"] {
            assert_eq!(mode(&format!("postgres://u@{local}/d")), "Prefer", "{local}");
        }
        assert_eq!(mode("postgres://u@h/d?host=/tmp"), "Prefer");
        for remote in ["db.internal", "10.0.0.1", "[2001:db8::1]", "localhost.evil.com"] {
            assert_eq!(mode(&format!("postgres://u@{remote}/d")), "VerifyFull", "{remote}");
        }
        assert_eq!(mode("postgres://u@localhost/d?host=db.internal"), "VerifyFull");
        assert_eq!(mode("postgres://u@localhost/d?hostaddr=10.0.0.1"), "VerifyFull");
        for stated in ["disable", "prefer", "require"] {
            let expected = stated.to_uppercase();
            assert_eq!(
                mode(&format!("postgres://u@h/d?sslmode={stated}")).to_uppercase(),
                expected
            );
            let key = DbConfig::load()
                .with("connection.host", "h")
                .with("connection.ssl_mode", stated);
            assert_eq!(ssl_mode(key.build().unwrap()).to_uppercase(), expected);
        }
        let key = DbConfig::load().with("connection.url", "postgres://h/d?sslmode=disable");
        assert_eq!(
            ssl_mode(key.with("connection.ssl_mode", SslMode::VerifyCa).build().unwrap()),
            "VerifyCa"
        );
    }
}

#[test]
fn libpqs_variable_states_the_mode() {
    if in_child(
        "libpqs_variable_states_the_mode",
        &[("PGSSLMODE", "require"), ("PGHOST", "db.internal")],
    ) {
        assert_eq!(ssl_mode(DbConfig::default()), "Require");
    }
}

#[test]
fn a_misspelt_libpq_variable_does_not_weaken() {
    if in_child(
        "a_misspelt_libpq_variable_does_not_weaken",
        &[("PGSSLMODE", "requre"), ("PGHOST", "db.internal")],
    ) {
        assert_eq!(ssl_mode(DbConfig::default()), "VerifyFull");
    }
}

fn ssl_mode(config: DbConfig) -> String {
    format!("{:?}", config.connect_options().unwrap().get_ssl_mode())
}

#[test]
fn session_settings_travel_in_the_start_up_message() {
    if !in_child("session_settings_travel_in_the_start_up_message", &[]) {
        return;
    }
    let options = |config: &DbConfig| {
        let options = config.connect_options().unwrap();
        (
            options.get_application_name().unwrap().to_owned(),
            options.get_options().unwrap().to_owned(),
        )
    };
    let defaults = "-c statement_timeout=130000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000 \
                    -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 \
                    -c tcp_user_timeout=10000";
    let mut config = DbConfig::from_url("postgres://localhost/d").unwrap();
    assert_eq!(options(&config), ("db-stack".to_owned(), defaults.to_owned()));
    config.session = SessionConfig {
        statement_timeout: None,
        idle_in_transaction_session_timeout: None,
        tcp_keepalives_idle: None,
        tcp_user_timeout: None,
        lock_timeout: Some(Duration::from_millis(1)),
        extra: [("search_path".to_owned(), r"a, b\c".to_owned())].into(),
        ..SessionConfig::default()
    };
    assert_eq!(options(&config).1, r"-c lock_timeout=1 -c search_path=a,\ b\\c");

    // The URL wins over a default, a key that was set wins over the URL: the server takes the last.
    let url = "postgres://localhost/d?application_name=me&options=-c%20lock_timeout%3D7%20--statement-timeout%3D8";
    let mut config = DbConfig::from_url(url).unwrap();
    config.session.statement_timeout = Some(Duration::from_secs(1));
    let (name, text) = options(&config);
    assert_eq!(name, "me");
    assert!(
        text.starts_with("-c lock_timeout=7 --statement-timeout=8 -c statement_timeout=1000 -c idle"),
        "{text}"
    );
    config.session.application_name = "you".to_owned();
    assert_eq!(options(&config).0, "you");
    let beside = config.session.startup_options_beside(Some(&text));
    assert!(beside.is_empty(), "nothing is sent twice: {beside:?}");
    let kept = SessionConfig::default().startup_options_beside(Some(r"-c x=lock_timeout=1 -cTCP_USER_TIMEOUT=1"));
    assert_eq!(kept.len(), 6, "{kept:?}");
}

#[test]
fn inactive_keys_are_those_of_missing_layers() {
    assert!(DbConfig::default().inactive_keys().is_empty());
    let config = DbConfig::load()
        .with("pool.max_waiting", 5)
        .with("cache.mode", Mode::Enforce)
        .build()
        .unwrap();
    assert_eq!(config.inactive_keys(), ["cache.mode"]);
}

#[test]
fn toml_round_trip() {
    let all = DbConfig {
        connection: ConnectionConfig {
            url: Some("postgres://u@localhost/d?sslmode=disable".into()),
            ssl_mode: Some(SslMode::VerifyFull),
            ssl_root_cert: Some("/etc/ca.pem".to_owned()),
            statement_cache_capacity: 0,
            ..ConnectionConfig::default()
        },
        pool: PoolConfig {
            idle_timeout: None,
            lifetime_jitter: 0.5,
            ..PoolConfig::default()
        },
        session: SessionConfig {
            extra: [("a.b".to_owned(), "1".to_owned())].into(),
            ..SessionConfig::default()
        },
        timeout: TimeoutConfig {
            mode: Mode::Off,
            default: Duration::from_millis(1),
        },
        transaction: TransactionConfig {
            mode: Mode::Observe,
            timeout: Duration::from_secs(3600),
        },
        retry: RetryConfig {
            max_attempts: 1,
            multiplier: 1.0,
            ..RetryConfig::default()
        },
        health: HealthConfig {
            timeout: Duration::from_millis(3),
            ..HealthConfig::default()
        },
        slow_query: SlowQueryConfig {
            threshold: Duration::ZERO,
            ..SlowQueryConfig::default()
        },
        cache: CacheConfig {
            mode: Mode::Enforce,
            ..CacheConfig::default()
        },
        leak: LeakConfig {
            threshold: Duration::from_millis(1501),
            ..LeakConfig::default()
        },
    };
    for config in [DbConfig::default(), all] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(DbConfig::from_toml_str(&text).unwrap(), config, "{text}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DbConfig>(&json).unwrap(), config);
    }
    assert_eq!(
        DbConfig::load().env_from("X_", NONE).build().unwrap(),
        DbConfig::default()
    );
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let serde_json::Value::Object(sections) = serde_json::to_value(DbConfig::default()).unwrap() else {
        panic!()
    };
    let mut keys = BTreeMap::new();
    for (section, values) in &sections {
        for (key, value) in values.as_object().unwrap() {
            let text = match value {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Object(empty) if empty.is_empty() => String::new(),
                other => other.to_string(),
            };
            keys.insert(format!("{section}.{key}"), text);
        }
    }
    let documented: BTreeMap<_, _> = KEYS
        .iter()
        .map(|key| (key.name.to_owned(), key.default.to_owned()))
        .collect();
    assert_eq!(documented, keys);
    assert_eq!(documented.len(), KEYS.len(), "a key is listed twice");
    assert_eq!(KEYS[9].env(), "DB_STACK_POOL__MAX_CONNECTIONS");
    for (report, name) in REPORT_NAMES {
        assert!(
            documented.contains_key(*name),
            "{report} became {name}, which is unknown"
        );
    }
}

#[test]
fn the_reference_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, render_reference()).unwrap();
    }
    let page = fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == render_reference(),
        "stale: UPDATE_DOCS=1 cargo test -p db-stack --test config"
    );
}
