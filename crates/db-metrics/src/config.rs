//! The settings of metrics and of tracing.

use crate::{
    registry::{NameSet, Names},
    tags,
};
use db_core::config::Checks;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Who gets the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Exporter {
    /// The built-in one: a page to scrape, on a listener of its own or inside an existing axum app.
    #[cfg_attr(feature = "prometheus", default)]
    Prometheus,
    /// The recorder that the application has installed for the `metrics` facade, told once a second.
    #[cfg_attr(not(feature = "prometheus"), default)]
    Global,
}

/// What is counted and how it is called. Read once, at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Whether calls are counted. Default true.
    pub enabled: bool,
    /// Whose names. Default `report`.
    pub naming: NameSet,
    /// The first part of the report's names. Default `ava`, `[a-z_][a-z0-9_]*`, at most 32 characters.
    pub namespace: String,
    /// Who gets them. Default `prometheus`, or `global` in a build without that feature.
    pub exporter: Exporter,
    /// Where the built-in exporter and its live page listen, such as `127.0.0.1:9187`. Default empty: nowhere.
    pub listen: String,
    /// A label `pool` (or `db.client.connection.pool.name`) on every series, for several pools in one process. Default
    /// empty: no label in the report's names, `db-stack` in the conventions', which require it.
    pub pool_name: String,
    /// Statements whose tables are remembered; those unused for longest leave first and are looked at again. Default
    /// 4096 (own choice: about 200 bytes each), 16..=1000000.
    pub max_statements: usize,
    /// Tables that have series of their own, first come first served; the others share `other`. Default 100 (own
    /// choice: with four verbs each about 3,000 lines of a scrape), 0..=10000.
    pub max_tables: usize,
    /// The same for tenants. Default 50, 0..=10000.
    pub max_tenants: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            naming: NameSet::Report,
            namespace: "ava".to_owned(),
            exporter: Exporter::default(),
            listen: String::new(),
            pool_name: String::new(),
            max_statements: 4096,
            max_tables: 100,
            max_tenants: 50,
        }
    }
}

impl MetricsConfig {
    /// The names.
    pub fn names(&self) -> Names {
        Names {
            set: self.naming,
            namespace: self.namespace.clone(),
        }
    }

    /// Where to listen, if anywhere.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(crate) fn constant_labels(&self) -> Vec<(String, String)> {
        match self.naming {
            NameSet::Report if self.pool_name.is_empty() => Vec::new(),
            NameSet::Report => vec![("pool".to_owned(), self.pool_name.clone())],
            NameSet::OpenTelemetry => {
                let name = if self.pool_name.is_empty() {
                    "db-stack"
                } else {
                    &self.pool_name
                };
                let dotted = self.exporter == Exporter::Global;
                let label = |name: &str| {
                    if dotted {
                        name.to_owned()
                    } else {
                        name.replace('.', "_")
                    }
                };
                vec![
                    (label("db.system.name"), "postgresql".to_owned()),
                    (label("db.client.connection.pool.name"), name.to_owned()),
                ]
            }
        }
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            let name = self.namespace.as_bytes();
            let first = name.first().is_some_and(|b| b.is_ascii_lowercase() || *b == b'_');
            let plain = name
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
            c.require(
                "namespace",
                self.namespace.escape_debug(),
                first && plain && name.len() <= 32,
                "[a-z_][a-z0-9_]*, at most 32 characters",
            );
            c.require(
                "listen",
                self.listen.escape_debug(),
                self.listen.is_empty() || self.address().is_some(),
                "an address with a port, such as 127.0.0.1:9187, or nothing",
            );
            let shown = self.pool_name.len() <= 100 && !self.pool_name.chars().any(char::is_control);
            c.require(
                "pool_name",
                self.pool_name.escape_debug(),
                shown,
                "at most 100 bytes, no control characters",
            );
            c.range("max_statements", &self.max_statements, 16..=1_000_000);
            c.range("max_tables", &self.max_tables, 0..=10_000);
            c.range("max_tenants", &self.max_tenants, 0..=10_000);
        });
    }
}

/// Spans of calls, for whatever subscriber the application has; `otlp::install` sets one up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// Whether calls have spans. Default true; without a subscriber that wants `db_stack` at `INFO` they cost nothing.
    pub enabled: bool,
    /// The share of calls outside any span that begin a trace. Default 0.01 (own choice: a span costs microseconds, and
    /// calls inside a request's span follow that one). 0..=1.
    pub sample: f64,
    /// Whether a span shows the statement, without its literals. Default true.
    pub query_text: bool,
    /// What the server is told behind each statement in a comment, in the way of sqlcommenter: `name=value`, with commas
    /// in between, such as `application=orders,route=checkout`. The same for every call, since a comment with a trace's
    /// number would prepare each call anew. Default empty: no comment. At most 8, names of a-z, 0-9 and _.
    pub tags: String,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            sample: 0.01,
            query_text: true,
            tags: String::new(),
        }
    }
}

impl TracingConfig {
    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            c.range("sample", &self.sample, 0.0..=1.0);
            let usable = tags::comment(&self.tags).is_some();
            c.require("tags", self.tags.escape_debug(), usable, tags::ALLOWED);
        });
    }
}
