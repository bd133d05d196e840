//! What a database can be given before it connects.

use crate::{
    cached::CacheTask,
    config::DbConfig,
    db::{Db, Inner},
    discover::{self, Discovery},
    endpoint,
    health::Patient,
    node::NodeParts,
    nodes, stack,
    telemetry::Telemetry,
};
use arc_swap::ArcSwap;
use db_cache::{Cache, Sharing};
use db_core::{Call, Layer, Lease, Observer, Observers, Result};
use db_health::Health;
use db_leak::LeakLayer;
use db_pool::{OptionsSource, Pool, PoolBuilder};
use db_retry::{RetryLayer, RetryParts, RetryPolicy};
use db_timeout::TimeoutLayer;
use sqlx::{ConnectOptions, PgPool, postgres::PgConnectOptions};
use std::{fmt, future::Future, sync::Arc};

/// Collects settings; see [`Db::builder`].
#[derive(Default)]
pub struct DbBuilder {
    config: DbConfig,
    url: Option<String>,
    options: Option<PgConnectOptions>,
    source: Option<OptionsSource>,
    discovery: Option<Discovery>,
    observers: Observers,
    sharing: Option<Sharing>,
}

impl DbBuilder {
    /// All settings at once. A URL or options given to this builder win over the connection part.
    #[must_use]
    pub fn config(mut self, config: DbConfig) -> Self {
        self.config = config;
        self
    }

    /// Where to connect.
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.to_owned());
        self
    }

    /// Where and how to connect, in sqlx's own terms.
    #[must_use]
    pub fn options(mut self, options: PgConnectOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// Where and how to connect is asked of `source` for each connection, for a password or a name that changes: beside a
    /// URL or options, which say the same at the start. Names, never addresses: a certificate is made out to a name.
    #[must_use]
    pub fn options_from(mut self, source: OptionsSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Who the nodes are is asked of `nodes`, which answers with the URLs of all of them, the primary's included: at the
    /// start, every `replica.discovery_interval`, and when the primary is lost. Which one is the primary is found out. What
    /// a URL leaves out is as for the connection. The answer takes the place of `replica.urls` and of the connection's own
    /// host; an error or an empty list changes nothing. [`dns_nodes`](crate::dns_nodes) is such a question.
    ///
    /// It begins with [`DbBuilder::connect`], or with [`DbBuilder::build`] inside of a runtime.
    ///
    /// ```no_run
    /// # async fn example() -> db_stack::Result<()> {
    /// use db_stack::{Db, dns_nodes};
    ///
    /// let db = Db::builder()
    ///     .url("postgres://app@db-headless.prod.svc/app")
    ///     .discover(dns_nodes("db-headless.prod.svc", 5432))
    ///     .connect()
    ///     .await?;
    /// # drop(db); Ok(()) }
    /// ```
    #[must_use]
    pub fn discover<F, E>(mut self, nodes: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = std::result::Result<Vec<String>, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.discovery = Some(discover::boxed(nodes));
        self
    }

    /// The most connections that may be open; default 10.
    #[must_use]
    pub fn max_connections(mut self, max: u32) -> Self {
        self.config.pool.max_connections = max;
        self.config.pool.min_connections = self.config.pool.min_connections.min(max);
        self
    }

    /// Shares cached answers with other processes over a store such as Redis, those that ask for it
    /// (`Cached::shared`, feature `l2`). The store and its secret are no part of the configuration.
    ///
    /// ```
    /// # #[cfg(feature = "l2")]
    /// # fn example(secret: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    /// use db_stack::{Db, RedisTier, TierSharing};
    ///
    /// let sharing = TierSharing::new(RedisTier::new("redis://cache.internal:6379/0")?, secret)?;
    /// let builder = Db::builder().url("postgres://app@localhost/shop").share_cache(sharing);
    /// # drop(builder); Ok(()) }
    /// ```
    #[must_use]
    pub fn share_cache(mut self, sharing: Sharing) -> Self {
        self.sharing = Some(sharing);
        self
    }

    /// Changes any setting in place.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut DbConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Someone who is told what happens in the stack.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.observers.add(observer);
        self
    }

    /// The database, with no connection opened yet.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names each key that is out of range.
    pub fn build(mut self) -> Result<Db> {
        if let Some(url) = &self.url {
            self.config.connection = DbConfig::from_url(url)?.connection;
        }
        self.config.validate()?;
        let own_options = self.options.is_some();
        let options = match self.options.take() {
            Some(options) => options,
            None => self.config.connect_options()?,
        };
        let source = match self.source.take() {
            Some(source) => Some(source),
            None => (!own_options).then(|| endpoint::options_of(&self.config)),
        };
        let mut pool = Pool::builder(options.clone(), self.config.pool.clone());
        if let Some(source) = source {
            pool = pool.options_from(endpoint::unlogged(source));
        }
        self.finish(pool, &options, own_options)
    }

    /// The database, with the connect options, limits and hooks of an sqlx pool.
    ///
    /// # Errors
    /// As [`DbBuilder::build`].
    pub fn build_from_pool(mut self, pool: &PgPool) -> Result<Db> {
        self.config.pool = Pool::limits_of(pool);
        let options = pool.connect_options();
        let pool = Pool::from_pool(pool, self.config.pool.clone());
        self.finish(pool, &options, true)
    }

    fn finish(self, pool: PoolBuilder, options: &PgConnectOptions, own_options: bool) -> Result<Db> {
        // The stack tells of every statement itself: nothing is said twice.
        let options = &options.clone().disable_statement_logging();
        let pool = pool
            .without_statement_logging()
            .session(self.config.session.clone())
            .observers(self.observers.clone())
            .build()?;
        let timeouts = TimeoutLayer::new(self.config.timeout.clone(), self.observers.clone())?;
        let classes = timeouts.clone();
        let parts = RetryParts {
            classes: Some(Arc::new(move |class| classes.limits(class).retry)),
            ..RetryParts::default()
        };
        let retries = RetryPolicy::with_parts(self.config.retry.clone(), self.observers.clone(), parts)?;
        let leaks = LeakLayer::new(self.config.leak.clone(), self.observers.clone())?;
        let leases = leaks.layer(pool.clone());
        let breaker = endpoint::breaker(&pool, self.config.breaker.clone(), self.observers.clone())?;
        let cache = Cache::new(self.config.cache.clone(), self.observers.clone())?;
        if let Some(sharing) = self.sharing {
            if !self.config.cache.listen {
                tracing::warn!("a shared cache needs cache.listen: nothing is shared");
            }
            cache.share(sharing);
        }
        let patient = Patient {
            pool: pool.clone(),
            timeouts: timeouts.clone(),
            breaker: breaker.clone(),
            addresses: parking_lot::Mutex::default(),
        };
        let health = Health::new(Arc::new(patient), self.config.health.clone(), self.observers.clone())?;
        let unused = self.config.inactive_keys();
        if !unused.is_empty() {
            tracing::warn!(keys = ?unused, "settings without effect: this build has no layer for them");
        }
        let longest = self.config.timeout.longest();
        if let Some(backstop) = self
            .config
            .session
            .statement_timeout
            .filter(|backstop| *backstop < longest)
        {
            tracing::warn!(
                ?backstop,
                ?longest,
                "session.statement_timeout ends statements before their class does"
            );
        }
        let members = nodes::members(&self.config, options, own_options)?;
        let telemetry = Telemetry::new(&self.config, &self.observers, options)?;
        let config = Arc::new(ArcSwap::from_pointee(self.config));
        let parts = NodeParts {
            leaks: leaks.clone(),
            cache: cache.clone(),
            observers: self.observers.clone(),
        };
        let replicas = nodes::routed(&config, members, &leases, &breaker, parts)?;
        let inner = Inner {
            stack: stack::assemble(
                telemetry.observe.clone(),
                timeouts.clone(),
                RetryLayer::new(retries.clone()),
                replicas.clone(),
            ),
            cached: CacheTask::new(cache),
            telemetry,
            pool,
            leases,
            leaks,
            timeouts,
            retries,
            breaker,
            health,
            observers: self.observers,
            config,
            replicas,
            options: ArcSwap::from_pointee(options.clone()),
            own_options,
            discovers: self.discovery.is_some(),
        };
        let inner = Arc::new(inner);
        inner.telemetry.read_from(&inner);
        if let Some(discovery) = self.discovery {
            discover::keep(&inner, discovery);
        }
        Ok(Db {
            inner,
            call: Call::default(),
            urgency_said: false,
        })
    }

    /// The database, once its first connection is open.
    ///
    /// # Errors
    /// The real reason why there is none.
    pub async fn connect(self) -> Result<Db> {
        let db = self.build()?;
        db.inner.health.watch();
        let limit = db.inner.config.load().pool.connect_timeout;
        // Which node is the primary is known before the first call, where there is more than one.
        db.nodes_ready(limit).await;
        let lease = db.inner.acquire(&Call::default()).await?;
        if lease.shared_session().is_some() {
            // Found out by now: some of what looks like the server's errors is the pooler's own.
            let mut retry = db.inner.config.load().retry.clone();
            retry.pooler = true;
            db.inner.retries.reload(retry)?;
        }
        Ok(db)
    }
}

impl fmt::Debug for DbBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the URL nor sqlx's options, whose own `Debug` prints the password.
        f.debug_struct("DbBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
