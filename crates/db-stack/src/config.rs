//! [`DbConfig`]: every setting of the stack, from TOML, the environment and overrides.

use std::{collections::BTreeMap, path::Path};

pub use db_cache::CacheConfig;
use db_core::config::{Checks, InvalidConfig};
pub use db_health::{BreakerConfig, HealthConfig, Tables};
pub use db_leak::{LeakConfig, Threshold};
pub use db_metrics::{Exporter, MetricsConfig, NameSet, SlowQueryConfig, TracingConfig};
use db_pool::{PoolConfig, SessionConfig};
pub use db_replica::{NodeUrls, ReplicaConfig};
pub use db_retry::{RetryConfig, Strategy};
pub use db_timeout::{AdaptiveConfig, ClassLimits, TimeoutConfig};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

mod connection;
mod keys;
mod load;
mod near;
mod reference;
mod secret;
mod tenants;
mod transaction;
mod tree;
mod url;

pub use connection::{ConnectionConfig, SslMode};
pub use keys::{KEYS, REPORT_NAMES};
pub use load::{Loader, Setting};
pub use reference::{KeyDoc, Kind, render_reference};
pub use secret::Secret;
pub use tenants::{Tenancy, TenantsConfig};
pub use transaction::TransactionConfig;
pub use url::DatabaseUrl;

/// Sections whose layer is in this build. A part that adds a layer adds its section here.
const BUILT: &[&str] = &[
    "connection",
    "pool",
    "session",
    "tenants",
    "timeout",
    "transaction",
    "retry",
    "breaker",
    "health",
    "cache",
    "replica",
    "leak",
    "slow_query",
    "metrics",
    "tracing",
];

/// Every setting of the stack: plain data, one section for each layer.
///
/// ```
/// use db_stack::config::DbConfig;
///
/// let config = DbConfig::from_toml_str(
///     r#"
///     [connection]
///     url = "postgres://app@localhost/orders"
///     [pool]
///     max_connections = 20
///     acquire_timeout = "2s"
///     "#,
/// )?;
/// assert_eq!(config.pool.max_connections, 20);
///
/// let error = DbConfig::from_toml_str("pool.max_conections = 20").unwrap_err();
/// assert!(error.to_string().contains("the nearest is pool.max_connections"));
/// # Ok::<(), db_core::config::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DbConfig {
    /// Where the server is and who we are.
    pub connection: ConnectionConfig,
    /// How many connections there are, how long they live and how long anyone waits for one.
    pub pool: PoolConfig,
    /// The server-side settings of each connection.
    pub session: SessionConfig,
    /// How the database is divided among tenants.
    pub tenants: TenantsConfig,
    /// How long a call may take.
    pub timeout: TimeoutConfig,
    /// How long a transaction may take.
    pub transaction: TransactionConfig,
    /// When a failed call is tried again.
    pub retry: RetryConfig,
    /// When calls are refused because the server is down.
    pub breaker: BreakerConfig,
    /// Where the replicas are, and which of them serve.
    pub replica: ReplicaConfig,
    /// How the server is watched.
    pub health: HealthConfig,
    /// Which statements are reported as slow.
    pub slow_query: SlowQueryConfig,
    /// What is counted, and who gets it.
    pub metrics: MetricsConfig,
    /// Spans of calls.
    pub tracing: TracingConfig,
    /// Whether answers are kept.
    pub cache: CacheConfig,
    /// When a lease that is not given back is called a leak.
    pub leak: LeakConfig,
}

impl DbConfig {
    /// Before the name of each environment variable.
    pub const ENV_PREFIX: &str = "DB_STACK_";

    /// The defaults for this URL.
    ///
    /// # Errors
    /// [`InvalidConfig`] shows the URL without its password.
    pub fn from_url(url: &str) -> Result<Self, InvalidConfig> {
        let connection = ConnectionConfig {
            url: Some(url.into()),
            ..ConnectionConfig::default()
        };
        let config = Self {
            connection,
            ..Self::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The settings of a TOML text.
    ///
    /// # Errors
    /// [`InvalidConfig`] names every key that is unknown or can't be used.
    pub fn from_toml_str(text: &str) -> Result<Self, InvalidConfig> {
        Self::load().toml("TOML", text).build()
    }

    /// The settings of a TOML file.
    ///
    /// # Errors
    /// As [`from_toml_str`](Self::from_toml_str), and when the file can't be read.
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self, InvalidConfig> {
        Self::load().file(path).build()
    }

    /// The settings of the environment variables with this prefix, see [`Loader::env`].
    ///
    /// # Errors
    /// As [`from_toml_str`](Self::from_toml_str).
    pub fn from_env(prefix: &str) -> Result<Self, InvalidConfig> {
        Self::load().env(prefix).build()
    }

    /// Joins several sources; of two that set a key, the one that was added later wins.
    pub fn load() -> Loader {
        Loader::default()
    }

    /// Checks every setting, those of layers that are not built yet included.
    ///
    /// # Errors
    /// [`InvalidConfig`] names every key that can't be used, with its value and what is allowed.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let mut checks = Checks::default();
        let c = &mut checks;
        self.connection.validate("connection", c);
        self.pool.validate("pool", c);
        self.session.validate("session", c);
        self.tenants.validate("tenants", c);
        self.timeout.validate("timeout", c);
        self.transaction.validate("transaction", c);
        self.retry.validate("retry", c);
        self.breaker.validate("breaker", c);
        self.replica.validate("replica", c);
        self.health.validate("health", c);
        self.slow_query.validate("slow_query", c);
        self.metrics.validate("metrics", c);
        self.tracing.validate("tracing", c);
        self.cache.validate("cache", c);
        self.leak.validate("leak", c);
        checks.finish()
    }

    /// The options to connect with: `connection`, and `session` in the start-up message.
    ///
    /// Without a stated `ssl_mode` a server on another machine gets `verify-full`; sqlx's own default falls back to
    /// plaintext without a word. Of session settings, a key that was set wins over the URL's `options`, and these
    /// win over a default.
    ///
    /// # Errors
    /// [`InvalidConfig`], with secrets masked.
    pub fn connect_options(&self) -> Result<PgConnectOptions, InvalidConfig> {
        let mut checks = Checks::default();
        self.connection.validate("connection", &mut checks);
        self.session.validate("session", &mut checks);
        checks.finish()?;
        self.connection.options(&self.session)
    }

    /// Keys that were set and do nothing: those of layers that this build does not have, and unknown parameters of
    /// the URL.
    pub fn inactive_keys(&self) -> Vec<String> {
        let default = tree::texts(&Self::default());
        let inactive = |(key, text): (String, String)| {
            let section = key.split('.').next().unwrap_or_default();
            (!BUILT.contains(&section) && default.get(&key) != Some(&text)).then_some(key)
        };
        let url = self.connection.url.iter().flat_map(DatabaseUrl::ignored_parameters);
        let keys: BTreeMap<String, String> = tree::texts(self);
        keys.into_iter()
            .filter_map(inactive)
            .chain(url.map(|name| format!("connection.url?{name}")))
            .collect()
    }
}
