//! The addresses of the other nodes, which may hold passwords.

use db_core::config::Checks;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::postgres::PgConnectOptions;
use std::{fmt, str::FromStr};

const MASK: &str = "***";
/// Nodes of one cluster; more are a mistake or need a pooler.
const MOST: usize = 64;

/// What a node's URL may say besides its parts.
const PARAMETERS: [&str; 7] = ["host", "port", "user", "password", "dbname", "sslmode", "ssl-mode"];

/// URLs of nodes: a list in a file, one text with commas in the environment. What a URL leaves out (user, password,
/// database) is that of the connection. `Debug` and serde show no password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NodeUrls(Vec<String>);

impl NodeUrls {
    /// The URLs, with their passwords.
    pub fn expose(&self) -> &[String] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn validate(&self, key: &str, c: &mut Checks) {
        let count = format!("{} URLs", self.0.len());
        c.require(key, count, self.0.len() <= MOST, "at most 64 URLs");
        for url in &self.0 {
            let ok = options(url).is_some();
            c.require(key, MASK, ok, "URLs like postgres://host:port, separated by commas");
        }
    }

    fn shown(&self) -> Vec<String> {
        self.0.iter().map(|url| masked(url)).collect()
    }
}

/// The URL without its password; what can't be told apart from one is masked as a whole.
fn masked(url: &str) -> String {
    if options(url).is_none() {
        return MASK.to_owned();
    }
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = place.split_once("://").unwrap_or_default();
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{host}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.starts_with("password=") {
            true => format!("password={MASK}"),
            false => pair.to_owned(),
        })
        .collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("{scheme}://{rest}{mark}{}", pairs.join("&"))
}

/// sqlx would ignore other parameters, and log them.
fn options(url: &str) -> Option<PgConnectOptions> {
    let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let (_, query) = url.split_once('?').unwrap_or((url, ""));
    let parameters = query.split('&').filter(|pair| !pair.is_empty());
    let mut names = parameters.map(|pair| pair.split('=').next().unwrap_or_default());
    let plain = known && !url.chars().any(char::is_control) && names.all(|name| PARAMETERS.contains(&name));
    plain.then(|| PgConnectOptions::from_str(url).ok()).flatten()
}

impl<T: Into<String>> FromIterator<T> for NodeUrls {
    fn from_iter<I: IntoIterator<Item = T>>(urls: I) -> Self {
        Self(urls.into_iter().map(Into::into).collect())
    }
}

impl From<&str> for NodeUrls {
    /// From one text with commas.
    fn from(text: &str) -> Self {
        text.split(',').map(str::trim).filter(|url| !url.is_empty()).collect()
    }
}

impl fmt::Debug for NodeUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

impl Serialize for NodeUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.shown().join(","))
    }
}

impl<'de> Deserialize<'de> for NodeUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(List)
    }
}

struct List;

impl<'de> de::Visitor<'de> for List {
    type Value = NodeUrls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of URLs, or one text with commas")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<NodeUrls, E> {
        Ok(NodeUrls::from(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<NodeUrls, A::Error> {
        let mut urls = Vec::new();
        while let Some(url) = list.next_element::<String>()? {
            urls.push(url);
        }
        Ok(NodeUrls(urls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_or_one_text_and_no_password_shows() {
        let urls =
            NodeUrls::from(" postgres://u:secret@a:1/d?sslmode=require , postgres:///?host=/run&password=secret,");
        assert_eq!(urls.expose().len(), 2);
        let shown = format!("{urls:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("postgres://u:***@a:1/d?sslmode=require"), "{shown}");
        let wrong = NodeUrls::from("mysql://u:secret@h");
        assert_eq!(format!("{wrong:?}"), r#"["***"]"#);
        let mut checks = Checks::default();
        wrong.validate("urls", &mut checks);
        assert!(checks.finish().is_err());
        #[derive(Deserialize)]
        struct Section {
            urls: NodeUrls,
        }
        for text in [
            "urls = ['postgres://a', 'postgres://b']",
            "urls = 'postgres://a,postgres://b'",
        ] {
            let section: Section = toml::from_str(text).unwrap();
            assert_eq!(section.urls, NodeUrls::from("postgres://a,postgres://b"));
        }
    }
}
