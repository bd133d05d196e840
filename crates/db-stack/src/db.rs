//! The handle.

use crate::{
    acquire,
    builder::DbBuilder,
    cached::CacheTask,
    config::DbConfig,
    endpoint,
    events::Events,
    lease::Lease,
    node::NodeStack,
    nodes,
    stack::Stack,
    telemetry::Telemetry,
    tx::{Begin, Tx},
    tx_attempts::TxAttempts,
};
use arc_swap::ArcSwap;
use db_core::{Call, Error, Observers, QueryClass, Result, Source};
use db_health::{Breaker, Health};
use db_leak::{Leak, LeakLayer, Leases};
use db_metrics::{Meter, Server};
use db_pool::{CloseReport, Pool, PoolStats, StatementStats};
use db_replica::Routed;
use db_retry::{RetryPolicy, RetryStats};
use db_timeout::{TimeoutLayer, TimeoutStats};
use futures_util::future::join3;
use sqlx::{PgPool, SqlSafeStr, postgres::PgConnectOptions};
use std::{fmt, future::Future, panic::Location, sync::Arc, time::Duration};
use tokio::time::Instant;

/// A database, in place of `PgPool`. Cheap to clone; `&Db` is an [`sqlx::Executor`].
///
/// Options ride on handles: `db.class(QueryClass::Slow)` is again a `Db` over the same connections.
#[derive(Clone)]
pub struct Db {
    pub(crate) inner: Arc<Inner>,
    pub(crate) call: Call,
    /// The caller chose the priority: the task's own does not count.
    pub(crate) urgency_said: bool,
}

pub(crate) struct Inner {
    pub(crate) pool: Pool,
    /// The pool, with account kept of its leases.
    pub(crate) leases: Leak<Pool>,
    pub(crate) leaks: LeakLayer,
    pub(crate) timeouts: TimeoutLayer,
    pub(crate) retries: RetryPolicy,
    pub(crate) breaker: Breaker,
    pub(crate) health: Health,
    pub(crate) cached: CacheTask,
    pub(crate) stack: Box<dyn Stack>,
    pub(crate) telemetry: Telemetry,
    pub(crate) observers: Observers,
    pub(crate) config: Arc<ArcSwap<DbConfig>>,
    pub(crate) replicas: Routed<NodeStack>,
    /// How the first node is reached.
    pub(crate) options: ArcSwap<PgConnectOptions>,
    /// Built from sqlx's own options or pool: the configuration does not know the address.
    pub(crate) own_options: bool,
    /// Somebody else names the nodes.
    pub(crate) discovers: bool,
}

impl Inner {
    /// A lease of the primary for this call, unless the breaker knows that there is no hope.
    pub(crate) async fn acquire(&self, call: &Call) -> Result<Lease> {
        self.replicas.may_write()?;
        Ok(Lease(self.breaker.acquire(&self.leases, call).await?))
    }

    /// The same under a permit that the caller has already.
    pub(crate) async fn lease(&self, call: &Call) -> Result<Lease> {
        self.replicas.may_write()?;
        Ok(Lease(Source::acquire(&self.leases, call).await?))
    }
}

impl Db {
    /// Everything that can be set before connecting.
    pub fn builder() -> DbBuilder {
        DbBuilder::default()
    }

    /// Connects and waits for the first connection.
    ///
    /// # Errors
    /// The real reason why there is none: refused, wrong password, no such database, too many connections.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// Connects with sqlx's own options.
    ///
    /// # Errors
    /// As [`Db::connect`].
    pub async fn connect_with(options: PgConnectOptions) -> Result<Self> {
        Self::builder().options(options).connect().await
    }

    /// A handle that connects when it is first used.
    ///
    /// # Errors
    /// [`Error::Config`] when the URL can't be used.
    pub fn connect_lazy(url: &str) -> Result<Self> {
        Self::builder().url(url).build()
    }

    /// As [`Db::connect_lazy`], with sqlx's own options.
    ///
    /// # Errors
    /// [`Error::Config`] when the options can't be used.
    pub fn connect_lazy_with(options: PgConnectOptions) -> Result<Self> {
        Self::builder().options(options).build()
    }

    /// A stack like an existing sqlx pool: its connect options, limits and hooks. The sqlx pool itself is left alone.
    ///
    /// # Errors
    /// [`Error::Config`] when the pool's settings are out of range.
    pub fn from_pool(pool: &PgPool) -> Result<Self> {
        Self::builder().build_from_pool(pool)
    }

    /// The same database for calls of another class.
    #[must_use]
    #[track_caller]
    pub fn class(&self, class: QueryClass) -> Self {
        self.with(|call| call.class = class)
    }

    /// The same database for calls that must end by `deadline`: waiting, retrying and running together. An earlier
    /// deadline that is already set stays.
    #[must_use]
    pub fn deadline(&self, deadline: Instant) -> Self {
        Self {
            inner: self.inner.clone(),
            call: self.call.clone().with_deadline(deadline),
            urgency_said: self.urgency_said,
        }
    }

    /// The same database for calls that may each take at most `timeout`; the nearest of this, the deadline and the
    /// limit of the class wins. What a call has in flight then is cancelled on the server.
    #[must_use]
    #[track_caller]
    pub fn timeout(&self, timeout: Duration) -> Self {
        self.with(|call| call.timeout = Some(call.timeout.map_or(timeout, |set| set.min(timeout))))
    }

    /// The same database for calls that may run twice without harm: what may have run is then tried again as well.
    #[must_use]
    #[track_caller]
    pub fn idempotent(&self) -> Self {
        self.with(|call| call.idempotent = true)
    }

    /// Retries by cause, attempts per call, what is left of the budget, and transactions by outcome.
    pub fn retries(&self) -> RetryStats {
        self.inner.retries.stats()
    }

    /// The leases that are out, what the others were used for by call site, and the leaks that were found.
    pub fn leases(&self) -> Leases {
        self.inner.leaks.leases()
    }

    /// The circuit breaker of the server: to read its state, or to open and reset it by hand.
    pub fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    /// Calls, timeouts and durations by class and by statement.
    pub fn timeouts(&self) -> TimeoutStats {
        self.inner.timeouts.stats()
    }

    #[track_caller]
    pub(crate) fn with(&self, change: impl FnOnce(&mut Call)) -> Self {
        let mut db = self.clone();
        change(&mut db.call);
        db.call.site = Some(Location::caller());
        db
    }

    #[track_caller]
    pub(crate) fn call_here(&self) -> Call {
        let mut call = self.wishes();
        call.site = Some(Location::caller());
        call
    }

    /// A connection of one's own, which derefs to [`sqlx::PgConnection`]. It is verified and reset when it comes back.
    /// The wait for it ends at the handle's timeout and deadline, and after `pool.acquire_timeout`.
    /// Anything may be written on it: as long as it is out, nothing is answered from the cache.
    /// Dropping the future loses nothing. Through a transaction pooler it is a connection to the pooler: sessions change
    /// under it, and where the pooler does not follow prepared statements this is refused.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<Lease>> + Send + use<> {
        let (inner, call) = (self.inner.clone(), self.call_here());
        let free = self.unconfined("a lease of one's own");
        async move {
            free?;
            acquire::raw(&inner.cached.cache, acquire::in_time(&inner, call).await?)
        }
    }

    /// A connection that is idle at this moment, if any.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Lease> {
        self.unconfined("a lease of one's own").ok()?;
        acquire::raw(&self.inner.cached.cache, self.idle_lease()?).ok()
    }

    #[track_caller]
    fn idle_lease(&self) -> Option<Lease> {
        let call = self.call_here();
        let lease = self.inner.pool.try_acquire_for(&call)?;
        Some(Lease(self.inner.leases.track(lease, &call)))
    }

    /// Begins a transaction. Dropped before `commit`, it is rolled back; dropped while it begins, nothing is left open.
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Tx>> + Send + use<> {
        TxAttempts::new(&self.inner, self.call_here(), Begin::default()).begin_for_good()
    }

    /// As [`Db::begin`], with a `BEGIN` statement of one's own, such as `BEGIN ISOLATION LEVEL SERIALIZABLE`.
    #[track_caller]
    pub fn begin_with(&self, statement: impl SqlSafeStr) -> impl Future<Output = Result<Tx>> + Send {
        let begin = Begin {
            statement: Some(statement.into_sql_str()),
            ..Begin::default()
        };
        TxAttempts::new(&self.inner, self.call_here(), begin).begin_for_good()
    }

    /// A transaction if a connection is idle at this moment.
    ///
    /// # Errors
    /// When `BEGIN` fails.
    #[track_caller]
    pub fn try_begin(&self) -> impl Future<Output = Result<Option<Tx>>> + Send + use<> {
        Tx::try_begin(self.inner.clone(), self.idle_lease(), self.call_here())
    }

    /// The pool's figures at this moment.
    pub fn stats(&self) -> PoolStats {
        self.inner.pool.stats()
    }

    /// The prepared statements of the primary's connections: the most used, what was prepared again or pushed out, how many
    /// each connection holds. As JSON, its `statements` are what `db-stack doctor --client` reads.
    pub fn statements(&self) -> StatementStats {
        self.inner.pool.statements()
    }

    /// What happens from now on, as a bounded stream.
    pub fn events(&self) -> Events {
        Events::of(&self.inner.observers)
    }

    /// What is counted: [`Meter::render`] for Prometheus, [`Meter::router`] for an existing axum app.
    pub fn metrics(&self) -> &Meter {
        &self.inner.telemetry.meter
    }

    /// The live page of the exporter, where `metrics.listen` asked for one.
    pub fn metrics_url(&self) -> Option<String> {
        self.inner.telemetry.server.as_ref().map(Server::url)
    }

    /// Open connections.
    pub fn size(&self) -> u32 {
        self.stats().size
    }

    /// Connections that nobody uses at this moment.
    pub fn num_idle(&self) -> usize {
        self.stats().idle as usize
    }

    /// Whether [`Db::close`] has been called.
    pub fn is_closed(&self) -> bool {
        self.inner.pool.is_closed()
    }

    /// The warm lease pool under the stack.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<DbConfig> {
        self.inner.config.load_full()
    }

    /// Swaps the settings at run time. What belongs to a connection (session, credentials, address) applies to
    /// connections opened from now on; the others are closed as they come back.
    ///
    /// # Errors
    /// [`Error::Config`] names each key that is out of range; the settings in force stay.
    pub fn reload(&self, config: DbConfig) -> Result<()> {
        config.validate()?;
        let before = self.inner.config.load_full();
        let moved = config.connection != before.connection || config.session != before.session;
        if config.connection != before.connection || (config.session != before.session && !self.inner.own_options) {
            self.inner.pool.set_endpoint_from(
                config.connect_options()?,
                Some(endpoint::options_of(&config)),
                config.session.clone(),
            );
        } else if config.session != before.session {
            // The address came from the caller's own options, which the configuration does not know.
            self.inner.pool.set_session(config.session.clone());
        }
        self.inner.pool.reload(config.pool.clone()).map_err(Error::from)?;
        self.inner.timeouts.reload(config.timeout.clone())?;
        let mut retry = config.retry.clone();
        // What was found out about the way to the server stays true.
        retry.pooler |= self.inner.retries.config().pooler;
        self.inner.retries.reload(retry)?;
        self.inner.leaks.reload(config.leak.clone())?;
        self.inner.breaker.reload(config.breaker.clone())?;
        self.inner.health.reload(config.health.clone())?;
        self.inner.telemetry.reload(&config, self.inner.own_options);
        self.inner.cached.cache.reload(config.cache.clone())?;
        if moved {
            self.inner.cached.stop();
        }
        nodes::reload(&self.inner, &before, config)
    }

    /// Stops handing out connections, waits for those in use up to `pool.drain_timeout`, then ends their sessions. What
    /// the stack opened for itself ends as well: afterwards the server knows nothing of it any more.
    /// Cancel-safe: a dropped future leaves the database closed to new callers.
    pub async fn close(&self) -> CloseReport {
        self.inner.cached.stop();
        self.inner.breaker.close();
        let (report, (), ()) = join3(
            self.inner.pool.close(),
            self.inner.health.close(),
            nodes::close(&self.inner.replicas),
        )
        .await;
        self.inner.telemetry.slow.close().await;
        report
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db")
            .field("pool", &self.inner.pool)
            .finish_non_exhaustive()
    }
}
