//! Where the server is and how to talk to it.

use std::{env, fmt, net::IpAddr};

use db_core::config::{Checks, InvalidConfig};
use db_pool::SessionConfig;
use serde::{Deserialize, Serialize};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};
use sqlx_core::Url;

use super::{
    secret::{MASK, Secret},
    url::DatabaseUrl,
};

/// Where the server is and who we are: one `url`, or its parts.
///
/// What neither says comes from libpq's environment variables (`PGHOST`, `PGUSER`, …) and password file, then from
/// libpq's defaults, as sqlx does it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// `postgres://user:password@host:port/database?parameters`; excludes `host`, `port`, `database` and `user`.
    /// Default none.
    pub url: Option<DatabaseUrl>,
    /// A host name, an IP address, or the folder of a unix socket. Default none (libpq's).
    pub host: Option<String>,
    /// Default none (5432), 1..=65535.
    pub port: Option<u16>,
    /// Default none (the same as `user`).
    pub database: Option<String>,
    /// Default none (the operating system's user).
    pub user: Option<String>,
    /// Wins over a password in `url`. Default none.
    pub password: Option<Secret>,
    /// Wins over `sslmode` in `url`. Default none: `verify-full` unless the server is on this machine.
    pub ssl_mode: Option<SslMode>,
    /// A file with the certificates of the authorities to trust (PEM). Default none: the web's.
    pub ssl_root_cert: Option<String>,
    /// Prepared statements kept for each connection. Default 100 (sqlx), 0..=100000; 0 prepares nothing for reuse.
    pub statement_cache_capacity: usize,
}

/// sqlx's default.
const STATEMENTS: usize = 100;

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            url: None,
            host: None,
            port: None,
            database: None,
            user: None,
            password: None,
            ssl_mode: None,
            ssl_root_cert: None,
            statement_cache_capacity: STATEMENTS,
        }
    }
}

/// How much a connection is protected, in libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Plaintext.
    Disable,
    /// Plaintext first; with sqlx the same as `disable`.
    Allow,
    /// TLS if the server has it, else plaintext without a word.
    Prefer,
    /// TLS with whoever answers.
    Require,
    /// TLS, and the certificate is from a trusted authority.
    VerifyCa,
    /// TLS, and the certificate is from a trusted authority and made out to this host.
    VerifyFull,
}

impl SslMode {
    pub(super) const ALLOWED: &str = "disable, allow, prefer, require, verify-ca or verify-full";

    const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// The mode's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<SslMode> for PgSslMode {
    fn from(mode: SslMode) -> Self {
        match mode {
            SslMode::Disable => Self::Disable,
            SslMode::Allow => Self::Allow,
            SslMode::Prefer => Self::Prefer,
            SslMode::Require => Self::Require,
            SslMode::VerifyCa => Self::VerifyCa,
            SslMode::VerifyFull => Self::VerifyFull,
        }
    }
}

impl ConnectionConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            if let Some(url) = &self.url {
                url.validate(c);
                let shown = |given: bool, key| given.then_some(key);
                let twice: Vec<_> = [
                    shown(self.host.is_some(), "host"),
                    shown(self.port.is_some(), "port"),
                    shown(self.database.is_some(), "database"),
                    shown(self.user.is_some(), "user"),
                ]
                .into_iter()
                .flatten()
                .collect();
                let allowed = format!("either a URL or its parts, and {} is set too", twice.join(", "));
                c.require("url", url, twice.is_empty(), allowed);
            }
            if let Some(host) = &self.host {
                // A URL here would carry a password into the message.
                let url_like = host.contains('@') || host.contains("://");
                let shown = if url_like {
                    MASK.to_owned()
                } else {
                    host.escape_debug().to_string()
                };
                let ok = !url_like && is_plain(host);
                c.require(
                    "host",
                    shown,
                    ok,
                    "a host, an IP address or a socket's folder; a URL belongs in url",
                );
            }
            for (key, text) in [
                ("database", &self.database),
                ("user", &self.user),
                ("ssl_root_cert", &self.ssl_root_cert),
            ] {
                let Some(text) = text else { continue };
                c.require(
                    key,
                    text.escape_debug(),
                    is_plain(text),
                    "text without control characters, not empty",
                );
            }
            if let Some(port) = self.port {
                c.range("port", &port, 1..=u16::MAX);
            }
            if let Some(password) = self.password.as_ref().map(Secret::expose) {
                c.require("password", MASK, !password.contains('\0'), "text without NUL");
                // Reading a dumped configuration back would try to log in with the mask.
                c.require(
                    "password",
                    MASK,
                    password != MASK,
                    "the password itself, not the mask of a dump",
                );
            }
            c.range("statement_cache_capacity", &self.statement_cache_capacity, 0..=100_000);
        });
    }

    /// sqlx's options. The settings must be valid.
    pub(super) fn options(&self, session: &SessionConfig) -> Result<PgConnectOptions, InvalidConfig> {
        let refused = || InvalidConfig::one("connection", MASK, "settings that sqlx accepts");
        let url = self.to_url().ok_or_else(refused)?;
        // sqlx's reason may quote what it read.
        let mut options = PgConnectOptions::from_url(&url).map_err(|_| refused())?;
        if let Some(file) = &self.ssl_root_cert {
            options = options.ssl_root_cert(file);
        }
        if self.statement_cache_capacity != STATEMENTS {
            options = options.statement_cache_capacity(self.statement_cache_capacity);
        }
        if let Some(mode) = self.stated_ssl_mode() {
            options = options.ssl_mode(mode.into());
        } else if !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }

        let defaults = SessionConfig::default();
        if session.application_name != defaults.application_name || options.get_application_name().is_none() {
            options = options.application_name(&session.application_name);
        }
        // A key that was set wins over the URL's options, which win over a default; the server takes the last.
        let unset = defaults.startup_options();
        let set: Vec<_> = session
            .startup_options()
            .into_iter()
            .filter(|option| !unset.contains(option))
            .collect();
        if !set.is_empty() {
            options = options.options(set);
        }
        let beside = session.startup_options_beside(options.get_options());
        if !beside.is_empty() {
            options = options.options(beside);
        }
        let options = options.disable_statement_logging();
        is_safe(&options)?;
        Ok(options)
    }

    /// One URL for all cases: sqlx reads libpq's password file for the right host only when it parses one.
    fn to_url(&self) -> Option<Url> {
        let mut url = match &self.url {
            Some(url) => url.for_sqlx()?,
            None => Url::parse("postgres:///").ok()?,
        };
        let port = self.port.map(|port| port.to_string());
        let parts = [
            ("host", self.host.as_deref()),
            ("port", port.as_deref()),
            ("dbname", self.database.as_deref()),
            ("user", self.user.as_deref()),
            ("password", self.password.as_ref().map(Secret::expose)),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        Some(url)
    }

    /// The same for the node that `place` names: what it leaves out is as here.
    pub(crate) fn at(&self, place: &Url) -> Option<Self> {
        let mut url = self.to_url()?;
        let mut said: Vec<String> = place.query_pairs().map(|(key, _)| key.into_owned()).collect();
        said.extend(["host", "hostaddr", "port"].map(str::to_owned));
        if let Some(host) = place.host_str() {
            url.set_host(Some(host)).ok()?;
            url.set_port(place.port()).ok()?;
        }
        if !place.username().is_empty() {
            url.set_username(place.username()).ok()?;
            said.push("user".to_owned());
        }
        if let Some(password) = place.password() {
            url.set_password(Some(password)).ok()?;
            said.push("password".to_owned());
        }
        if place.path().len() > 1 {
            url.set_path(place.path());
            said.push("dbname".to_owned());
        }
        let kept = url.query_pairs().into_owned().filter(|(key, _)| !said.contains(key));
        let pairs: Vec<(String, String)> = kept.chain(place.query_pairs().into_owned()).collect();
        url.set_query(None);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        Some(Self {
            url: Some(String::from(url).into()),
            ssl_mode: self.ssl_mode,
            ssl_root_cert: self.ssl_root_cert.clone(),
            statement_cache_capacity: self.statement_cache_capacity,
            ..Self::default()
        })
    }

    fn stated_ssl_mode(&self) -> Option<SslMode> {
        let in_url = || SslMode::parse(&self.url.as_ref()?.parameter(&["sslmode", "ssl-mode"])?);
        let in_environment = || SslMode::parse(&env::var("PGSSLMODE").ok()?);
        self.ssl_mode.or_else(in_url).or_else(in_environment)
    }
}

/// Whether the bytes stay on this machine, so that TLS adds nothing.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The last look at what goes into the start-up message, whichever source it is from (the environment, too).
fn is_safe(options: &PgConnectOptions) -> Result<(), InvalidConfig> {
    let mut checks = Checks::default();
    for (key, text) in [
        ("connection.host", Some(options.get_host())),
        ("connection.user", Some(options.get_username())),
        ("connection.database", options.get_database()),
        ("session.application_name", options.get_application_name()),
        ("session.extra", options.get_options()),
    ] {
        let Some(text) = text else { continue };
        let ok = !text.chars().any(char::is_control);
        checks.require(key, text.escape_debug(), ok, "text without control characters");
    }
    checks.finish()
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
