//! A connection URL whose password never shows.

use std::{fmt, net::IpAddr};

use db_core::config::Checks;
use serde::{Deserialize, Serialize, Serializer};
use sqlx_core::{Url, percent_encoding::percent_decode_str};

use super::{
    connection::SslMode,
    near::distance,
    secret::{MASK, Secret},
};

/// The parameters that sqlx reads; it ignores others.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

const FORM: &str = "a URL like postgres://user:password@host:5432/database (percent-encode / ? # @ in its parts)";

/// `postgres://user:password@host:port/database?parameters`, as sqlx and libpq read it.
///
/// `Debug`, `Display` and serde show it with the password masked. What can't be told apart from a badly encoded
/// password is masked as a whole.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(Secret);

impl DatabaseUrl {
    /// The text itself, with its password.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Names of parameters that nobody reads. They are left out when connecting: sqlx would log their values.
    pub fn ignored_parameters(&self) -> Vec<String> {
        let Some(url) = self.parse() else {
            return Vec::new();
        };
        url.query_pairs()
            .filter(|(key, _)| !is_known(key))
            .map(|(key, _)| key.into_owned())
            .collect()
    }

    /// The URL, unless its text is malformed or a part of the password may have slipped elsewhere.
    pub(super) fn parse(&self) -> Option<Url> {
        let url = Url::parse(self.expose()).ok()?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        // An unencoded `/`, `?` or `#` in a password ends the authority early, and its rest stands behind.
        let slipped = url.fragment().is_some()
            || url.path().contains('@')
            || !has_user
                && url.has_host()
                && url
                    .query_pairs()
                    .any(|(key, value)| !is_known(&key) && (key.contains('@') || value.contains('@')));
        (matches!(url.scheme(), "postgres" | "postgresql") && !slipped).then_some(url)
    }

    /// The URL for sqlx: without the parameters that it would ignore and log.
    pub(super) fn for_sqlx(&self) -> Option<Url> {
        let mut url = self.parse()?;
        let known: Vec<_> = url
            .query_pairs()
            .into_owned()
            .filter(|(key, _)| is_known(key))
            .collect();
        set_query(&mut url, known);
        Some(url)
    }

    /// The value of the last parameter with one of these names.
    pub(super) fn parameter(&self, names: &[&str]) -> Option<String> {
        let url = self.parse()?;
        url.query_pairs()
            .filter(|(key, _)| names.contains(&&**key))
            .last()
            .map(|(_, value)| value.into_owned())
    }

    /// Notes whatever sqlx would refuse, misread or pass on to the server as something else.
    pub(super) fn validate(&self, c: &mut Checks) {
        let Some(url) = self.parse() else {
            return c.require("url", self, false, FORM);
        };
        let host = url.host_str().unwrap_or_default();
        for (part, text) in [("user", url.username()), ("host", host), ("database", url.path())] {
            plain(c, part, percent_decode_str(text).decode_utf8().ok().as_deref());
        }
        let password = percent_decode_str(url.password().unwrap_or_default())
            .decode_utf8()
            .ok();
        not_nul(c, password.as_deref());
        let socket = percent_decode_str(host).next() == Some(b'/');
        for (key, value) in url.query_pairs() {
            match &*key {
                "password" => not_nul(c, Some(&value)),
                "sslmode" | "ssl-mode" => {
                    let shown = format!("{key}={}", value.escape_debug());
                    c.require("url", shown, SslMode::parse(&value).is_some(), SslMode::ALLOWED);
                }
                "port" => bad_unless(
                    c,
                    &key,
                    &value,
                    value.parse::<u16>().is_ok_and(|port| port > 0),
                    "1..=65535",
                ),
                "hostaddr" => bad_unless(c, &key, &value, value.parse::<IpAddr>().is_ok(), "an IP address"),
                "statement-cache-capacity" => bad_unless(c, &key, &value, value.parse::<usize>().is_ok(), "a number"),
                "host" if socket => {
                    // sqlx would go to the socket all the same.
                    bad_unless(
                        c,
                        &key,
                        &value,
                        value.starts_with('/'),
                        "one host: the URL names a socket before",
                    );
                    plain(c, &key, Some(&value));
                }
                known if is_known(known) => plain(c, "parameter", Some(&format!("{known}={value}"))),
                unknown => {
                    let near = PARAMETERS.iter().find(|known| distance(known, unknown) <= 1);
                    let allowed = format!("a known parameter; the nearest is {}", near.unwrap_or(&""));
                    c.require(
                        "url",
                        format!("{}={MASK}", unknown.escape_debug()),
                        near.is_none(),
                        allowed,
                    );
                }
            }
        }
    }

    fn masked(&self) -> Option<Url> {
        let mut url = self.parse()?;
        if url.password().is_some() {
            url.set_password(Some(MASK)).ok()?;
        }
        let shows = |key: &str| is_known(key) && key != "password";
        let masked = |(key, value): (String, String)| {
            let value = if shows(&key) { value } else { MASK.to_owned() };
            (key, value)
        };
        let pairs: Vec<_> = url.query_pairs().into_owned().map(masked).collect();
        set_query(&mut url, pairs);
        Some(url)
    }
}

impl From<&str> for DatabaseUrl {
    fn from(url: &str) -> Self {
        Self(url.into())
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.masked() {
            Some(url) => url.fmt(f),
            None => f.write_str(MASK),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn is_known(parameter: &str) -> bool {
    PARAMETERS.contains(&parameter) || parameter.starts_with("options[")
}

fn set_query(url: &mut Url, pairs: Vec<(String, String)>) {
    url.set_query(None);
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
}

fn bad_unless(c: &mut Checks, key: &str, value: &str, ok: bool, allowed: &str) {
    c.require("url", format!("{key}={}", value.escape_debug()), ok, allowed);
}

/// A control character never belongs there, and a NUL would start a new setting in the start-up message.
fn plain(c: &mut Checks, part: &str, text: Option<&str>) {
    let ok = text.is_some_and(|text| !text.chars().any(char::is_control));
    let shown = text.unwrap_or("(not UTF-8)").escape_debug();
    c.require(
        "url",
        format!("{part}={shown}"),
        ok,
        "UTF-8 text without control characters",
    );
}

fn not_nul(c: &mut Checks, password: Option<&str>) {
    let ok = password.is_some_and(|password| !password.contains('\0'));
    c.require("url", format!("password={MASK}"), ok, "UTF-8 text without NUL");
}
