//! The addresses of the other nodes, which may hold passwords.

use db_core::config::Checks;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::postgres::PgConnectOptions;
use std::{fmt, str::FromStr};

const MASK: &str = "***";
/// Nodes of one cluster; more are a mistake or need a pooler.
const MOST: usize = 64;

/// URLs of nodes: a list in a file, one text with commas in the environment. What a URL leaves out (user, password,
/// database) is that of the connection. `Debug` and serde show hosts only.
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
            let known = url.starts_with("postgres://") || url.starts_with("postgresql://");
            let ok = known && !url.chars().any(char::is_control) && PgConnectOptions::from_str(url).is_ok();
            c.require(key, MASK, ok, "URLs like postgres://host:port, separated by commas");
        }
    }

    fn shown(&self) -> Vec<String> {
        let host = |url: &String| match PgConnectOptions::from_str(url) {
            Ok(options) => format!("{}:{}", options.get_host(), options.get_port()),
            Err(_) => MASK.to_owned(),
        };
        self.0.iter().map(host).collect()
    }
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
