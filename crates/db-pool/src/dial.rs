//! Opening one connection and setting up its session with at most one extra round trip.

use crate::{
    config::SessionConfig,
    conn::Backend,
    homes::Home,
    moves::Server,
    pooler::{self, Mark, Pooler},
};
use db_core::SharedSession;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Row, postgres::PgConnectOptions};
use std::{fmt, io, sync::Arc, time::Duration};
use tokio::time::timeout;

/// The first server version that can watch the client's socket while a statement runs.
pub(crate) const CHECKS_CLIENT: u32 = 140_000;

/// Where and how to connect, asked anew for each connection: so that a changed password or name counts from the next one
/// on. It gives names, never addresses: those are for the system's resolver, and a certificate is made out to a name.
pub type OptionsSource = Arc<dyn Fn() -> BoxFuture<'static, sqlx::Result<PgConnectOptions>> + Send + Sync>;

/// Where and how to connect.
#[derive(Clone)]
pub(crate) struct Endpoint {
    options: PgConnectOptions,
    source: Option<OptionsSource>,
    through: Option<PgPool>,
    /// The statements that repeat what the hooks of `through` have set, as its last connection showed them.
    hooked: Arc<Mutex<Option<Arc<str>>>>,
    /// Statements that a connection keeps prepared.
    capacity: usize,
    /// In place of the database that the options name.
    database: Option<Arc<str>>,
    /// Set once a transaction pooler has been found.
    shared: Arc<Mutex<Option<Arc<SharedSession>>>>,
}

impl Endpoint {
    /// Dials with these options.
    pub(crate) fn new(options: PgConnectOptions) -> Self {
        Self {
            capacity: capacity(&options),
            options,
            source: None,
            through: None,
            database: None,
            hooked: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// Dials through an sqlx pool, so that the hooks its owner gave it (`after_connect`) run on every connection.
    pub(crate) fn through(pool: PgPool) -> Self {
        Self {
            capacity: capacity(&pool.connect_options()),
            options: (*pool.connect_options()).clone(),
            source: None,
            through: Some(pool),
            database: None,
            hooked: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// The same, with sqlx logging no statement, whatever the options say.
    pub(crate) fn unlogged(mut self) -> Self {
        self.options = self.options.disable_statement_logging();
        self
    }

    /// Statements that a connection keeps prepared.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The pool whose hooks every connection runs.
    pub(crate) fn hooks(&self) -> Option<&PgPool> {
        self.through.as_ref()
    }

    /// What a reset has to repeat after `RESET ALL`, which goes back behind the hooks. They can't be called again, but
    /// the server tells what they have set; not so for names with a dot, which `SessionConfig::extra` is for.
    pub(crate) fn hooked(&self) -> Option<Arc<str>> {
        self.hooked.lock().clone()
    }

    /// The options to dial with: through a pooler bare of settings, else with those of the session in the start-up
    /// message, where they cost no trip and `RESET ALL` goes back to them.
    pub(crate) fn options(&self, session: &SessionConfig) -> PgConnectOptions {
        let pooled = session.pooler == Pooler::Transaction || self.shared().is_some();
        let bare = pooled.then(|| self.bare(session).ok()).flatten();
        bare.unwrap_or_else(|| self.dedicated(session))
    }

    fn bare(&self, session: &SessionConfig) -> sqlx::Result<PgConnectOptions> {
        pooler::bare(&self.options, &session.application_name)
    }

    fn dedicated(&self, session: &SessionConfig) -> PgConnectOptions {
        // What the options say already stays: whoever wrote it there meant it.
        let options = self
            .options
            .clone()
            .options(session.startup_options_beside(self.options.get_options()));
        match self.options.get_application_name() {
            Some(_) => options,
            None => options.application_name(&session.application_name),
        }
    }

    /// What a session is, once a pooler has been found before the server.
    pub(crate) fn shared(&self) -> Option<Arc<SharedSession>> {
        self.shared.lock().clone()
    }

    /// The same, with options asked for anew for each connection.
    pub(crate) fn with_source(mut self, source: Option<OptionsSource>) -> Self {
        self.source = source;
        self
    }

    /// The same for another database of the server.
    pub(crate) fn at_home(&self, home: &Home) -> Self {
        let mut endpoint = self.clone();
        endpoint.database = home.clone();
        endpoint
    }

    /// The endpoint as it is now.
    async fn fresh(&self) -> sqlx::Result<Self> {
        let mut fresh = self.clone();
        if let Some(source) = fresh.source.take() {
            fresh.options = source().await?;
        }
        if let Some(database) = &fresh.database {
            // sqlx's pool keeps one set of options for all that dial through it at the same time.
            if fresh.through.is_some() {
                let why = "a database for each tenant needs options of our own, not those of an sqlx pool";
                return Err(sqlx::Error::Configuration(why.into()));
            }
            fresh.options = fresh.options.database(database);
        }
        Ok(fresh)
    }

    /// The options to dial with at this moment, within `limit`: those of [`Endpoint::options`], asked for anew.
    pub(crate) async fn current(&self, session: &SessionConfig, limit: Duration) -> sqlx::Result<PgConnectOptions> {
        match timeout(limit, self.fresh()).await {
            Ok(fresh) => Ok(fresh?.options(session)),
            Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Whether the options may be others at each time.
    pub(crate) fn is_asked(&self) -> bool {
        self.source.is_some()
    }

    /// The server's name and port, unless it is reached by a unix socket.
    pub(crate) async fn name(&self) -> Option<(String, u16)> {
        let options = self.fresh().await.ok()?.options;
        let host = options.get_host();
        let socket = options.get_socket().is_some() || host.starts_with('/');
        (!socket).then(|| (host.to_owned(), options.get_port()))
    }

    /// Opens a connection, with its session set up, within `limit`.
    pub(crate) async fn dial(&self, session: &SessionConfig, limit: Duration) -> sqlx::Result<(PgConnection, Backend)> {
        let dialled = timeout(limit, async {
            let endpoint = self.fresh().await?;
            let pooled = session.pooler == Pooler::Transaction || self.shared().is_some();
            if !pooled {
                match endpoint.dial_server(session).await {
                    Err(error) if session.pooler == Pooler::Auto && pooler::refuses_settings(&error) => {}
                    dialled => return dialled,
                }
            }
            let pg = endpoint.connect(endpoint.bare(session)?).await?;
            endpoint.share(pg, session).await
        });
        dialled.await.unwrap_or_else(|_| Err(late(limit)))
    }

    async fn dial_server(&self, session: &SessionConfig) -> sqlx::Result<(PgConnection, Backend)> {
        let mark = Mark::new();
        let mut pg = self.connect(mark.on(self.dedicated(session))).await?;
        let set_up = set_up(&mut pg, session, self.through.is_some(), &mark).await?;
        // A pooler that was told to ignore what it can't follow.
        if !set_up.arrived && session.pooler == Pooler::Auto {
            return self.share(pg, session).await;
        }
        *self.hooked.lock() = set_up.hooked;
        Ok((pg, set_up.backend))
    }

    /// The connection as one through a pooler.
    async fn share(&self, mut pg: PgConnection, session: &SessionConfig) -> sqlx::Result<(PgConnection, Backend)> {
        let shared = pooler::session(&mut pg, session).await?;
        *self.shared.lock() = Some(shared.clone());
        let backend = Backend {
            pid: 0,
            started: "".into(),
            shared: Some(shared),
            watched: false,
            server: Server::behind_pooler(),
        };
        Ok((pg, backend))
    }

    async fn connect(&self, options: PgConnectOptions) -> sqlx::Result<PgConnection> {
        let Some(pool) = &self.through else {
            return options.connect().await;
        };
        pool.set_connect_options(options.clone());
        match pool.acquire().await {
            Ok(conn) => Ok(conn.detach()),
            // sqlx's pool says "timed out" for everything: one attempt of our own brings the reason to light.
            Err(sqlx::Error::PoolTimedOut) => match options.connect().await {
                Ok(conn) => {
                    drop(conn.close().await);
                    Err(sqlx::Error::PoolTimedOut)
                }
                Err(reason) => Err(reason),
            },
            Err(error) => Err(error),
        }
    }
}

/// The server took too long.
pub(crate) fn late(limit: Duration) -> sqlx::Error {
    let message = format!("the server did not complete the connection within {limit:?}");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// How many statements a connection keeps prepared: sqlx shows it in the URL alone.
fn capacity(options: &PgConnectOptions) -> usize {
    let url = options.to_url_lossy();
    let said = url.query_pairs().find(|(name, _)| name == "statement-cache-capacity");
    // sqlx's own default.
    said.and_then(|(_, value)| value.parse().ok()).unwrap_or(100)
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sqlx's own `Debug` of the options prints the password.
        f.debug_struct("Endpoint")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .finish_non_exhaustive()
    }
}

/// The setting that ends an abandoned statement when its client's socket closes; it can't be in the start-up message,
/// where a name that the server does not know is fatal.
pub(crate) fn watch_client(session: &SessionConfig, set: &str) -> Option<String> {
    let interval = session.client_connection_check_interval?;
    Some(format!(
        "{set} client_connection_check_interval = '{}ms'",
        interval.as_millis()
    ))
}

/// What the session's set-up has found.
struct SetUp {
    backend: Backend,
    hooked: Option<Arc<str>>,
    /// Whether the start-up message reached this session.
    arrived: bool,
}

/// The session's last set-up step. One trip.
async fn set_up(pg: &mut PgConnection, session: &SessionConfig, hooks: bool, mark: &Mark) -> sqlx::Result<SetUp> {
    const WHO: &str = "SELECT pg_backend_pid(), \
        (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())), \
        pg_postmaster_start_time()::text, pg_is_in_recovery()";
    // What was set in this session after its start, save for what is set here.
    const HOOKED: &str = "(SELECT string_agg(again, '; ') FROM ( \
        SELECT format('SELECT set_config(%L, %L, false)', name, setting) FROM pg_settings \
        WHERE source = 'session' AND name <> 'client_connection_check_interval' \
        UNION ALL SELECT format('SET ROLE %I', current_setting('role')) WHERE current_setting('role') <> 'none' \
        ) AS hooks (again))";
    let arrived = mark.arrived();
    let hooked = if hooks { HOOKED } else { "NULL::text" };
    let who = format!("{WHO}, {arrived}, {hooked}");
    let interval = session
        .client_connection_check_interval
        .filter(|_| pg.server_version_num().is_some_and(|v| v >= CHECKS_CLIENT));
    let (row, watched) = match interval {
        Some(interval) => {
            // Only in a session that is ours.
            let ms = interval.as_millis();
            let watch =
                format!("CASE WHEN {arrived} THEN set_config('client_connection_check_interval', '{ms}ms', false) END");
            match one_row(pg, format!("{who}, {watch}")).await {
                // The server's platform can't watch sockets.
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22023") => {
                    (one_row(pg, who).await?, false)
                }
                answer => (answer?, true),
            }
        }
        None => (one_row(pg, who).await?, false),
    };
    let hooked = row.try_get::<Option<String>, _>(5)?;
    let backend = Backend {
        watched,
        pid: row.try_get(0)?,
        started: row.try_get::<Option<String>, _>(1)?.unwrap_or_default().into(),
        shared: None,
        server: Server {
            started: row.try_get::<String, _>(2)?.into(),
            standby: row.try_get(3)?,
        },
    };
    Ok(SetUp {
        backend,
        hooked: hooked.map(Arc::from),
        arrived: row.try_get(4)?,
    })
}

async fn one_row(pg: &mut PgConnection, sql: String) -> sqlx::Result<sqlx::postgres::PgRow> {
    // Simple protocol: several statements, one trip. The text is made of our own constants and a number.
    pg.fetch_optional(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
        .await?
        .ok_or(sqlx::Error::RowNotFound)
}
