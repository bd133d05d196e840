//! The handle.

use crate::{
    acquire::home_of,
    beside,
    config::{PoolConfig, SessionConfig},
    control::Control,
    dial::{Endpoint, OptionsSource},
    governor,
    holders::Caller,
    home::Home,
    inner::{self, Lent},
    keeper,
    lease::PoolLease,
    plans::Plans,
    pooler::Pooler,
    reaper,
    shared::{First, Shared},
    state::{Phase, State},
    statement_stats::{StatementStats, StatementTotals},
    statements::Statements,
    stats::PoolStats,
};
use arc_swap::ArcSwap;
use db_core::{
    AcquireError, AcquireFailure, Call, Event, Holder, Lease, LeaseState, NeedsSession, Observers, Result,
    SharedSession, Source,
    config::{Checks, InvalidConfig},
};
use parking_lot::Mutex;
use sqlx::{PgPool, Postgres, Transaction, postgres::PgConnectOptions};
use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::{Arc, OnceLock, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

/// A pool of warm leases. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tasks: Arc<Tasks>,
}

/// The background tasks, which end with the last handle.
pub(crate) struct Tasks {
    shared: Arc<Shared>,
    pub(crate) running: Mutex<Vec<AbortHandle>>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.running.get_mut().drain(..) {
            task.abort();
        }
        self.shared.shut();
    }
}

/// Everything that a pool can be given before it starts.
#[derive(Debug)]
pub struct PoolBuilder {
    endpoint: Endpoint,
    config: PoolConfig,
    session: SessionConfig,
    observers: Observers,
}

impl PoolBuilder {
    /// The session's settings.
    #[must_use]
    pub fn session(mut self, session: SessionConfig) -> Self {
        self.session = session;
        self
    }

    /// Where and how to connect is asked anew for each connection.
    #[must_use]
    pub fn options_from(mut self, source: OptionsSource) -> Self {
        self.endpoint = self.endpoint.with_source(Some(source));
        self
    }

    /// Switches sqlx's own logging of statements off, for who tells of them by himself: also that of the options of an
    /// sqlx pool, whose own connections keep it. Options that come from a source are for the source to say.
    #[must_use]
    pub fn without_statement_logging(mut self) -> Self {
        self.endpoint = self.endpoint.unlogged();
        self
    }

    /// Who is told what happens.
    #[must_use]
    pub fn observers(mut self, observers: Observers) -> Self {
        self.observers = observers;
        self
    }

    /// The pool, with no connection opened yet: the first caller starts it.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn build(self) -> Result<Pool, InvalidConfig> {
        let mut checks = Checks::default();
        self.config.validate("pool", &mut checks);
        self.session.validate("session", &mut checks);
        checks.finish()?;
        let state = Mutex::new(State::new(&self.config, Instant::now()));
        let shared = Arc::new(Shared {
            config: ArcSwap::from_pointee(self.config),
            session: ArcSwap::from_pointee(self.session),
            endpoint: ArcSwap::from_pointee(self.endpoint),
            state,
            statements: Arc::new(Statements::new(self.observers.clone())),
            observers: self.observers,
            demand: Notify::new(),
            emptied: Notify::new(),
            control: Control::default(),
            epochs: watch::Sender::new(0),
            reconnecting: tokio::sync::Mutex::default(),
            home: Home::default(),
            inner: OnceLock::new(),
            plans: Plans::default(),
            waited_nanos: AtomicU64::new(0),
        });
        let tasks = Arc::new(Tasks {
            shared: shared.clone(),
            running: Mutex::default(),
        });
        Ok(Pool { shared, tasks })
    }
}

impl Pool {
    /// A pool for these options.
    pub fn builder(options: PgConnectOptions, config: PoolConfig) -> PoolBuilder {
        PoolBuilder {
            endpoint: Endpoint::new(options),
            config,
            session: SessionConfig::default(),
            observers: Observers::default(),
        }
    }

    /// A pool that dials as an existing sqlx pool does, with its connect options and hooks.
    pub fn from_pool(pool: &PgPool, config: PoolConfig) -> PoolBuilder {
        let endpoint = Endpoint::through(inner::dialler(pool, config.connect_timeout));
        PoolBuilder {
            endpoint,
            config,
            session: SessionConfig::default(),
            observers: Observers::default(),
        }
    }

    /// Connects to `url` and waits for the first connection.
    ///
    /// # Errors
    /// The real reason why there is none: refused, wrong password, no such database, too many connections.
    pub async fn connect(url: &str, config: PoolConfig) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?;
        let pool = Self::builder(options, config).build()?;
        drop(pool.acquire().await?);
        Ok(pool)
    }

    /// Waits for a lease until `acquire_timeout`. A dropped future loses nothing.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<PoolLease>> + Send + use<> {
        let (pool, call) = (self.clone(), Call::here());
        async move { pool.acquire_for(&call).await }
    }

    /// A lease that is idle at this moment, untested; `None` when there is none.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<PoolLease> {
        self.try_acquire_for(&Call::here())
    }

    /// The same for a call: of its tenant's database, where that has one of its own.
    pub fn try_acquire_for(&self, call: &Call) -> Option<PoolLease> {
        let (caller, home) = (Caller::from(call), home_of(call));
        loop {
            match self.shared.first(caller, &home, None, false) {
                // Its statements are forgotten in quarantine, since nobody waits here.
                Ok(First::Lease(mut lease) | First::Test(mut lease)) if lease.is_outdated() => {
                    lease.settle(LeaseState::Verify);
                }
                Ok(First::Lease(lease) | First::Test(lease)) => return Some(lease),
                _ => return None,
            }
        }
    }

    /// Starts the background tasks in this runtime, unless they run already. When the runtime of an earlier caller has
    /// gone, its tasks went with it, and its connections are of no use in another one.
    pub(crate) fn start(&self) {
        if self.shared.home.is_alive() {
            return;
        }
        let runtime = Handle::current();
        let mut running = self.tasks.running.lock();
        if self.is_closed() {
            return;
        }
        let Some(resident) = self.shared.home.move_in(&runtime) else {
            return;
        };
        if !running.is_empty() {
            self.shared.state.lock().stats.dialing = 0;
            self.shared.next_epoch();
        }
        for task in running.drain(..) {
            task.abort();
        }
        let shared = || self.shared.clone();
        running.push(runtime.spawn(keeper::keep(shared(), resident)).abort_handle());
        running.push(runtime.spawn(reaper::reap(shared())).abort_handle());
        running.push(runtime.spawn(governor::govern(shared())).abort_handle());
        running.push(runtime.spawn(Control::serve(shared())).abort_handle());
    }

    /// The pool's figures at this moment.
    pub fn stats(&self) -> PoolStats {
        // What went back to a closed sqlx pool is told by its size alone.
        self.shared.reconcile_lent();
        let mut stats = self.shared.state.lock().snapshot();
        stats.wait_time = Duration::from_nanos(self.shared.waited_nanos.load(Ordering::Relaxed));
        stats
    }

    /// The figures of its prepared statements.
    pub fn statements(&self) -> StatementStats {
        self.shared.statements.stats()
    }

    /// Their counts alone, for who asks often.
    pub fn statement_totals(&self) -> StatementTotals {
        self.shared.statements.totals()
    }

    /// Those who hold a lease, longest first.
    pub fn holders(&self) -> Vec<Holder> {
        self.shared.state.lock().holders.longest(Instant::now(), usize::MAX)
    }

    /// Whether the pool no longer hands out leases.
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().phase == Phase::Closed
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<PoolConfig> {
        self.shared.config.load_full()
    }

    /// Swaps the settings. Sizes and limits apply at once: a smaller pool shrinks as leases come back.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: PoolConfig) -> Result<(), InvalidConfig> {
        let mut checks = Checks::default();
        config.validate("pool", &mut checks);
        checks.finish()?;
        {
            let mut state = self.shared.state.lock();
            state.configure(&config);
            self.shared.config.store(Arc::new(config));
        }
        self.shared.demand.notify_one();
        self.shared.observers.tell(|| Event::Reloaded);
        Ok(())
    }

    /// New options and session settings for connections opened from now on; those of before are closed as they come
    /// back. The inner sqlx pool follows.
    pub fn set_endpoint(&self, options: PgConnectOptions, session: SessionConfig) {
        self.set_endpoint_from(options, None, session);
    }

    /// The same, with the options asked for anew for each connection.
    pub fn set_endpoint_from(&self, options: PgConnectOptions, source: Option<OptionsSource>, session: SessionConfig) {
        let endpoint = Endpoint::new(options).with_source(source);
        if let Some(inner) = self.shared.inner.get() {
            inner.set_connect_options(endpoint.options(&session));
        }
        self.shared.endpoint.store(Arc::new(endpoint));
        self.shared.session.store(Arc::new(session));
        self.shared.next_epoch();
    }

    /// Other options for connections opened from now on, with the session settings as they are: the same database on
    /// another node. Those of before are closed as they come back.
    pub fn set_options(&self, options: PgConnectOptions) {
        let session = (*self.shared.session.load_full()).clone();
        self.set_endpoint(options, session);
    }

    /// New session settings for connections opened from now on, at the same endpoint; those of before are closed as
    /// they come back.
    pub fn set_session(&self, session: SessionConfig) {
        if let Some(inner) = self.shared.inner.get() {
            inner.set_connect_options(self.shared.endpoint.load().options(&session));
        }
        self.shared.session.store(Arc::new(session));
        self.shared.next_epoch();
    }

    /// The limits of an sqlx pool, as far as sqlx lets them be read; everything else at its default.
    pub fn limits_of(pool: &PgPool) -> PoolConfig {
        inner::limits(pool)
    }

    /// The inner sqlx pool, for what is typed on `Pool<Postgres>`. What it opens counts against the same budget only
    /// when it is taken under [`Pool::lend`]; it keeps no idle connection.
    pub fn inner(&self) -> &PgPool {
        self.shared.inner.get_or_init(|| {
            let options = self.shared.endpoint.load().options(&self.shared.session.load());
            inner::lazy(options, &self.shared.config.load(), Arc::downgrade(&self.shared))
        })
    }

    /// An sqlx pool of one connection at the same endpoint, beside the budget and without any hooks: for a `PgListener`
    /// that has to stay up when the pool is exhausted. Nothing is opened yet.
    ///
    /// # Errors
    /// Where the options come from a source, what it says, after `connect_timeout` at the latest.
    pub async fn aside(&self) -> sqlx::Result<PgPool> {
        let limit = self.shared.config.load().connect_timeout;
        let (endpoint, session) = (self.shared.endpoint.load_full(), self.shared.session.load_full());
        Ok(inner::aside(endpoint.current(&session, limit).await?, limit))
    }

    /// A place in the budget for a connection that the inner pool is about to open: a free one, else that of a lease
    /// waited for like any other.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn lend(&self, call: &Call) -> Result<Lent> {
        self.start();
        if self.is_closed() {
            return Err(AcquireError::new(AcquireFailure::Closed, Duration::ZERO).into());
        }
        let pooled = self.shared_session(call).await?.is_some();
        let (endpoint, session) = (self.shared.endpoint.load_full(), self.shared.session.load_full());
        // What the inner pool was made with may be out of date.
        if pooled || endpoint.is_asked() {
            let (since, limit) = (Instant::now(), self.shared.config.load().connect_timeout);
            let current = endpoint.current(&session, limit).await;
            let options = current.map_err(|error| beside::no_connection(error, since.elapsed()))?;
            self.inner().set_connect_options(options);
        }
        match self.shared.try_lend() {
            Some(lent) => Ok(lent),
            None => Ok(self.shared.lend(self.acquire_for(call).await?)),
        }
    }

    /// What a session is, when a transaction pooler stands before the server. Connects first, if nobody has yet.
    ///
    /// # Errors
    /// As [`Pool::acquire`].
    pub async fn shared_session(&self, call: &Call) -> Result<Option<Arc<SharedSession>>> {
        let seen = || self.shared.endpoint.load().shared();
        if self.shared.session.load().pooler != Pooler::None && seen().is_none() && self.stats().connects == 0 {
            drop(self.acquire_for(call).await?);
        }
        Ok(seen())
    }

    /// An sqlx transaction, which only an sqlx pool can make, under a place in this pool's budget.
    ///
    /// # Errors
    /// As [`Pool::acquire`], or sqlx's own; [`NeedsSession::Lease`] behind a pooler that does not follow prepared
    /// statements.
    pub async fn begin_inner(&self, call: &Call) -> Result<Transaction<'static, Postgres>> {
        if self
            .shared_session(call)
            .await?
            .is_some_and(|session| !session.named_statements)
        {
            return Err(NeedsSession::Lease.into());
        }
        let lent = self.lend(call).await?;
        let transaction = self.inner().begin().await?;
        lent.taken_over();
        Ok(transaction)
    }
}

impl Source for Pool {
    type Lease = PoolLease;

    async fn acquire(&self, call: &Call) -> Result<PoolLease> {
        self.acquire_for(call).await
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
