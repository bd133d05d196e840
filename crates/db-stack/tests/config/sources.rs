//! Files, environment, overrides, and which one wins.

use crate::{in_child, message};
use db_core::config::Mode;
use db_pool::{PoolConfig, SessionConfig};
use db_stack::config::{
    BreakerConfig, CacheConfig, ConnectionConfig, DbConfig, Exporter, HealthConfig, LeakConfig, MetricsConfig, NameSet,
    ReplicaConfig, RetryConfig, SlowQueryConfig, SslMode, Tenancy, TenantsConfig, TimeoutConfig, TracingConfig,
    TransactionConfig,
};
use std::{fs, time::Duration};

const NONE: [(&str, &str); 0] = [];

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
    if in_child("sources::the_real_environment_is_read", &variables) {
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
    fs::create_dir_all(&dir).expect("temporary folder");
    dir
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
        tenants: TenantsConfig {
            mode: Tenancy::Row,
            ..TenantsConfig::default()
        },
        timeout: TimeoutConfig {
            mode: Mode::Off,
            window: Duration::from_secs(1),
            ..TimeoutConfig::default()
        },
        transaction: TransactionConfig {
            mode: Mode::Observe,
            timeout: Duration::from_secs(3600),
            ..TransactionConfig::default()
        },
        retry: RetryConfig {
            max_attempts: 1,
            multiplier: 1.0,
            ..RetryConfig::default()
        },
        breaker: BreakerConfig {
            slow_call: Some(Duration::from_secs(1)),
            ..BreakerConfig::default()
        },
        replica: ReplicaConfig {
            urls: "postgres://a:1,postgres:///?host=/run".into(),
            max_lag: Duration::from_secs(1),
            ..ReplicaConfig::default()
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
        metrics: MetricsConfig {
            naming: NameSet::OpenTelemetry,
            exporter: Exporter::Global,
            ..MetricsConfig::default()
        },
        tracing: TracingConfig {
            sample: 0.5,
            ..TracingConfig::default()
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
