//! The pool's settings as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{limit::LimitConfig, priorities::PrioritiesConfig, statements::StatementsConfig};
use db_core::config::{Checks, Mode, duration};
use serde::{Deserialize, Serialize};

use crate::pooler::Pooler;

/// Milliseconds and seconds of the server's settings are 32-bit signed integers.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
/// A minute already is an outage for whoever waits; longer waits on the wire are mistakes of a unit.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// `NAMEDATALEN - 1`: the server cuts `application_name` there.
const LONGEST_NAME: usize = 63;

/// How many connections there are, how long they live and how long anyone waits for one.
///
/// No default here was measured on your load. Each names its source; times are text with a unit in a file
/// (`"500ms"`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// The most connections, idle and in use together. Default 10 (HikariCP, bb8, sqlx), 1..=10000.
    ///
    /// More than about two for each core of the server seldom helps (HikariCP, "About Pool Sizing").
    pub max_connections: u32,
    /// Connections that are opened at the start and kept up. Default 1 (own choice, so that any maximum is allowed), 0..=`max_connections`.
    pub min_connections: u32,
    /// Callers that may wait at once; the next one is refused at once, see `admission`. Default 1024 (own choice: 100
    /// times the default maximum), 1..=1000000.
    pub max_waiting: u32,
    /// How long a caller waits for a lease in all. Default 5 s (pgdog `checkout_timeout`; the 30 s of other pools is
    /// too long for a service), 1ms..=1h.
    #[serde(with = "duration")]
    pub acquire_timeout: Duration,
    /// How long one attempt to connect may take, session set-up included. Default 5 s (pgdog), 1ms..=1h.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Attempts to connect that run at once. Default 4 (own choice: fills a default pool in three rounds and is no
    /// storm), 1..=1000.
    pub connect_parallelism: u32,
    /// The first pause after a failed attempt to connect; each pause is jittered down to zero. Default 50 ms (own
    /// choice), 1ms..=`connect_backoff_cap`.
    #[serde(with = "duration")]
    pub connect_backoff_base: Duration,
    /// The longest pause between attempts to connect. Default 400 ms (own choice: a pool serves again within 1 s of
    /// its server), 1ms..=1h.
    #[serde(with = "duration")]
    pub connect_backoff_cap: Duration,
    /// How long a connection over `min_connections` stays unused before it is closed; `None` (`"off"`): for ever.
    /// Default 10 min (HikariCP), at least 1ms.
    #[serde(with = "duration::or_off")]
    pub idle_timeout: Option<Duration>,
    /// How old a connection gets; `None` (`"off"`): any age. Default 30 min (HikariCP), at least 1ms.
    #[serde(with = "duration::or_off")]
    pub max_lifetime: Option<Duration>,
    /// The share of `max_lifetime` that is taken off at random, so that connections do not expire together. Default
    /// 0.25 (HikariCP 6.1), 0..=0.9.
    pub lifetime_jitter: f64,
    /// A connection that was idle for longer is tested before it is handed out. Default 500 ms (HikariCP), 0s..=1h;
    /// `0s` tests every time.
    #[serde(with = "duration")]
    pub validate_after: Duration,
    /// How long that test may take. Default 250 ms (own choice: HikariCP's lowest), 1ms..=`acquire_timeout`.
    #[serde(with = "duration")]
    pub validation_timeout: Duration,
    /// How long making one lease clean may take before its connection is closed. Default 1 s (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub quarantine_timeout: Duration,
    /// How long `close()` waits for leases that are out before it closes them. Default 20 s (own choice: within the
    /// 30 s that Kubernetes gives a pod), 0s..=1h.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// A wait for a lease that was longer is an event. Default 100 ms (own choice), 0s..=1h.
    #[serde(with = "duration")]
    pub slow_acquire: Duration,
    /// What priorities, deadlines and bounds of the queue do. Default `enforce`; `observe` serves in the order of arrival
    /// and counts the refusals that it would have made, `off` leaves the queue unbounded by count.
    pub admission: Mode,
    /// A queue stands when it was not empty for `shed_interval`, somebody in it waited for longer than this, and working
    /// it off takes longer too, by the measured service time. Those
    /// who have waited longer are then shed: critical after 4 times this, high after 2, background after half. Default
    /// 2 s (own choice: 200 callers in a loop on 20 connections that wait half a second each are no overload; the 5 ms of
    /// CoDel is for packets), 1ms..=1h.
    #[serde(with = "duration")]
    pub shed_target: Duration,
    /// See `shed_target`. Default 500 ms (own choice), 1ms..=1h.
    #[serde(with = "duration")]
    pub shed_interval: Duration,
    /// The share of the connections that one tenant may use at once, rounded up. Default 0.5 (own choice: one tenant's
    /// reports never take all), 0.001..=1.
    pub tenant_share: f64,
    /// What each priority has of the connections.
    pub priorities: PrioritiesConfig,
    /// How many leases may be in use, found out while running.
    pub limit: LimitConfig,
    /// Prepared statements.
    pub statements: StatementsConfig,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 10,
            min_connections: 1,
            max_waiting: 1024,
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            connect_parallelism: 4,
            connect_backoff_base: Duration::from_millis(50),
            connect_backoff_cap: Duration::from_millis(400),
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
            lifetime_jitter: 0.25,
            validate_after: Duration::from_millis(500),
            validation_timeout: Duration::from_millis(250),
            quarantine_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(20),
            slow_acquire: Duration::from_millis(100),
            admission: Mode::Enforce,
            shed_target: Duration::from_secs(2),
            shed_interval: Duration::from_millis(500),
            tenant_share: 0.5,
            priorities: PrioritiesConfig::default(),
            limit: LimitConfig::default(),
            statements: StatementsConfig::default(),
        }
    }
}

impl PoolConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        let wait = MS..=LONGEST_WAIT;
        let wait_or_zero = Duration::ZERO..=LONGEST_WAIT;
        checks.within(prefix, |c| {
            c.range("max_connections", &self.max_connections, 1..=10_000);
            c.range("min_connections", &self.min_connections, 0..=self.max_connections);
            c.range("max_waiting", &self.max_waiting, 1..=1_000_000);
            c.range("acquire_timeout", &self.acquire_timeout, wait.clone());
            c.range("connect_timeout", &self.connect_timeout, wait.clone());
            c.range("connect_parallelism", &self.connect_parallelism, 1..=1000);
            c.range("connect_backoff_cap", &self.connect_backoff_cap, wait.clone());
            c.at_least("connect_backoff_base", &self.connect_backoff_base, &MS);
            let cap = self.connect_backoff_cap;
            c.not_longer_than(
                "connect_backoff_base",
                self.connect_backoff_base,
                "connect_backoff_cap",
                cap,
            );
            if let Some(idle_timeout) = self.idle_timeout {
                c.at_least("idle_timeout", &idle_timeout, &MS);
            }
            if let Some(max_lifetime) = self.max_lifetime {
                c.at_least("max_lifetime", &max_lifetime, &MS);
            }
            c.range("lifetime_jitter", &self.lifetime_jitter, 0.0..=0.9);
            c.range("validate_after", &self.validate_after, wait_or_zero.clone());
            c.at_least("validation_timeout", &self.validation_timeout, &MS);
            c.not_longer_than(
                "validation_timeout",
                self.validation_timeout,
                "acquire_timeout",
                self.acquire_timeout,
            );
            c.range("quarantine_timeout", &self.quarantine_timeout, wait.clone());
            c.range("drain_timeout", &self.drain_timeout, wait_or_zero.clone());
            c.range("slow_acquire", &self.slow_acquire, wait_or_zero);
            c.range("shed_target", &self.shed_target, wait.clone());
            c.range("shed_interval", &self.shed_interval, wait);
            c.range("tenant_share", &self.tenant_share, 0.001..=1.0);
            c.within("priorities", |c| self.priorities.validate(c));
            c.within("limit", |c| self.limit.validate(c));
            c.within("statements", |c| self.statements.validate(c));
        });
    }
}

/// The server-side settings that each new connection starts with.
///
/// They travel in the start-up message, so they cost no trip and survive `RESET ALL`. `None` (`"off"`) leaves the
/// server's own value, or that of the role or database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// How the sessions are called in `pg_stat_activity`. Default `db-stack`; at most 63 bytes, no control characters.
    pub application_name: String,
    /// The server ends a statement that runs longer. Default 130 s (the longest query class, 120 s, and a margin),
    /// 1ms..=2147483647ms.
    #[serde(with = "duration::or_off")]
    pub statement_timeout: Option<Duration>,
    /// The server ends a statement that waits longer for a lock. Default 10 s (own choice), 1ms..=2147483647ms.
    #[serde(with = "duration::or_off")]
    pub lock_timeout: Option<Duration>,
    /// The server ends a session that idles longer inside a transaction. Default 30 s (own choice; GitLab proposed
    /// 15 s), 1ms..=2147483647ms.
    #[serde(with = "duration::or_off")]
    pub idle_in_transaction_session_timeout: Option<Duration>,
    /// How often the server looks, while it runs a statement, whether the client is still there. Needs PostgreSQL 14,
    /// is left out on an older one. Default 200 ms (ended an abandoned statement 202 ms after its socket closed),
    /// 1ms..=2147483647ms.
    #[serde(with = "duration::or_off")]
    pub client_connection_check_interval: Option<Duration>,
    /// The server probes a silent client after this time; whole seconds. Default 10 s (own choice), 1s..=9h.
    #[serde(with = "duration::or_off")]
    pub tcp_keepalives_idle: Option<Duration>,
    /// The time between two probes; whole seconds. Default 5 s (own choice), 1s..=9h; sent only with
    /// `tcp_keepalives_idle`.
    #[serde(with = "duration")]
    pub tcp_keepalives_interval: Duration,
    /// Probes without an answer before the server gives the client up. Default 3 (own choice), 1..=127 (Linux).
    pub tcp_keepalives_count: u32,
    /// The server gives a client up whose acknowledgement is missing for this long. Needs PostgreSQL 12. Default 10 s
    /// (own choice), 1ms..=2147483647ms.
    #[serde(with = "duration::or_off")]
    pub tcp_user_timeout: Option<Duration>,
    /// Whether a transaction pooler stands before the server. Default `auto`: found out when connecting. Through one,
    /// these settings hold inside transactions only (`SET LOCAL`); set them for the role as well.
    pub pooler: Pooler,
    /// Further settings by name, for example `work_mem`. Names are `[a-z_][a-z0-9_.]*`, values without control
    /// characters. An unknown one without a dot in its name makes every connect fail.
    pub extra: BTreeMap<String, String>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            application_name: "db-stack".to_owned(),
            statement_timeout: Some(Duration::from_secs(130)),
            lock_timeout: Some(Duration::from_secs(10)),
            idle_in_transaction_session_timeout: Some(Duration::from_secs(30)),
            client_connection_check_interval: Some(Duration::from_millis(200)),
            tcp_keepalives_idle: Some(Duration::from_secs(10)),
            tcp_keepalives_interval: Duration::from_secs(5),
            tcp_keepalives_count: 3,
            tcp_user_timeout: Some(Duration::from_secs(10)),
            pooler: Pooler::Auto,
            extra: BTreeMap::new(),
        }
    }
}

impl SessionConfig {
    /// Everything that can be set by the start-up message, as pairs for `PgConnectOptions::options`.
    ///
    /// Not among them: `application_name`, which has a field of its own there, and
    /// `client_connection_check_interval`, which is unknown before PostgreSQL 14 and would refuse the connection.
    /// `extra` comes last and so wins.
    pub fn startup_options(&self) -> Vec<(String, String)> {
        let ms = |duration: Duration| duration.as_millis().to_string();
        // Rounded up: zero would mean "the operating system's default".
        let seconds = |duration: Duration| duration.as_millis().div_ceil(1000).to_string();
        let keepalives = self.tcp_keepalives_idle;
        [
            ("statement_timeout", self.statement_timeout.map(ms)),
            ("lock_timeout", self.lock_timeout.map(ms)),
            (
                "idle_in_transaction_session_timeout",
                self.idle_in_transaction_session_timeout.map(ms),
            ),
            ("tcp_keepalives_idle", keepalives.map(seconds)),
            (
                "tcp_keepalives_interval",
                keepalives.map(|_| seconds(self.tcp_keepalives_interval)),
            ),
            (
                "tcp_keepalives_count",
                keepalives.map(|_| self.tcp_keepalives_count.to_string()),
            ),
            ("tcp_user_timeout", self.tcp_user_timeout.map(ms)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .chain(self.extra.clone())
        .collect()
    }

    /// The limits as `SET LOCAL`, for a transaction through a pooler. Not those of the socket, which is the pooler's.
    pub(crate) fn local_limits(&self) -> String {
        let socket = |name: &str| name.starts_with("tcp_");
        let quoted = |value: &str| format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        let settings = self.startup_options().into_iter().filter(|(name, _)| !socket(name));
        let lines: Vec<_> = settings
            .map(|(name, value)| format!("SET LOCAL {name} = {}", quoted(&value)))
            .collect();
        lines.join("; ")
    }

    /// [`startup_options`](Self::startup_options) without the settings that `said` names already: the options text of
    /// a `PgConnectOptions`, so that what a caller wrote into a URL wins over a default.
    pub fn startup_options_beside(&self, said: Option<&str>) -> Vec<(String, String)> {
        let said = names_in(said.unwrap_or_default());
        self.startup_options()
            .into_iter()
            .filter(|(name, _)| !said.contains(name))
            .collect()
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        let keepalive = SECOND..=Duration::from_secs(9 * 3600);
        checks.within(prefix, |c| {
            let name = &self.application_name;
            let ok = name.len() <= LONGEST_NAME && is_plain(name);
            c.require(
                "application_name",
                name.escape_debug(),
                ok,
                "at most 63 bytes, no control characters",
            );
            for (key, value) in [
                ("statement_timeout", self.statement_timeout),
                ("lock_timeout", self.lock_timeout),
                (
                    "idle_in_transaction_session_timeout",
                    self.idle_in_transaction_session_timeout,
                ),
                (
                    "client_connection_check_interval",
                    self.client_connection_check_interval,
                ),
                ("tcp_user_timeout", self.tcp_user_timeout),
            ] {
                if let Some(value) = value {
                    c.range(key, &value, MS..=LONGEST);
                }
            }
            if let Some(idle) = self.tcp_keepalives_idle {
                c.range("tcp_keepalives_idle", &idle, keepalive.clone());
            }
            c.range("tcp_keepalives_interval", &self.tcp_keepalives_interval, keepalive);
            c.range("tcp_keepalives_count", &self.tcp_keepalives_count, 1..=127);
            c.within("extra", |c| {
                for (name, value) in &self.extra {
                    let shown = name.escape_debug().to_string();
                    c.require(&shown, "(name)", is_setting_name(name), "a name like [a-z_][a-z0-9_.]*");
                    c.require(
                        &shown,
                        value.escape_debug(),
                        is_plain(value),
                        "text without control characters",
                    );
                }
            });
        });
    }
}

/// A NUL ends a field of the start-up message and the rest would be read as further settings.
fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn is_setting_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.'))
}

/// The settings that a text like `-c work_mem=64MB --geqo=off` names, as the server reads it.
fn names_in(options: &str) -> BTreeSet<String> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(next) = chars.next() {
        match (next, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (space, _) if space.is_ascii_whitespace() => words.push(String::new()),
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    words.retain(|word| !word.is_empty() && word != "-c");
    let name = |word: &String| {
        let (name, _) = word.split_once('=')?;
        let name = name
            .strip_prefix("--")
            .or_else(|| name.strip_prefix("-c"))
            .unwrap_or(name);
        Some(name.replace('-', "_").to_ascii_lowercase())
    };
    words.iter().filter_map(name).collect()
}
