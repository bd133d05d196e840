//! The settings of tenants.

use db_core::config::Checks;
use serde::{Deserialize, Serialize};

/// Longest pattern that is taken; it is compiled once, and again with each reload.
const LONGEST_PATTERN: usize = 1000;

/// What keeps tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Tenancy {
    /// Nothing: an id counts for shares of connections and for the cache alone.
    Off,
    /// Each has a schema: `search_path` is local to a transaction around each statement.
    Schema,
    /// Each has rows, kept apart by row-level security that reads a setting: that is local to such a transaction.
    Row,
    /// Each has a database of the same server, and connections to it within the one budget.
    Database,
}

/// How the database is divided among tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantsConfig {
    /// Default `off`.
    pub mode: Tenancy,
    /// The whole of an id must match this regular expression. Default `[a-z0-9][a-z0-9_-]{0,47}`, at most 1000 bytes.
    pub pattern: String,
    /// For `schema`: the name of a tenant's schema, with `{id}` in it. Default `tenant_{id}`.
    pub schema: String,
    /// For `schema`: the schemas behind the tenant's own in its search path, separated by commas; empty for none.
    /// Default `public`.
    pub shared_schemas: String,
    /// For `database`: the name of a tenant's database, with `{id}` in it. Default `tenant_{id}`.
    pub database: String,
    /// For `row`: the setting that the policies read with `current_setting(…)`. Default `app.tenant`, a name with a dot.
    pub setting: String,
}

impl Default for TenantsConfig {
    fn default() -> Self {
        Self {
            mode: Tenancy::Off,
            pattern: "[a-z0-9][a-z0-9_-]{0,47}".to_owned(),
            schema: "tenant_{id}".to_owned(),
            shared_schemas: "public".to_owned(),
            database: "tenant_{id}".to_owned(),
            setting: "app.tenant".to_owned(),
        }
    }
}

impl TenantsConfig {
    /// The pattern, anchored.
    pub(crate) fn compiled(&self) -> Option<regex_lite::Regex> {
        regex_lite::Regex::new(&format!(r"\A(?:{})\z", self.pattern)).ok()
    }

    pub(crate) fn shared(&self) -> impl Iterator<Item = &str> {
        self.shared_schemas
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
    }

    /// Notes every setting that can't be used, with `prefix.` before its name.
    pub fn validate(&self, prefix: &str, checks: &mut Checks) {
        checks.within(prefix, |c| {
            let fits = self.pattern.len() <= LONGEST_PATTERN;
            c.require(
                "pattern",
                self.pattern.escape_debug(),
                fits && self.compiled().is_some(),
                "a regular expression of at most 1000 bytes",
            );
            c.require(
                "schema",
                self.schema.escape_debug(),
                self.schema.matches("{id}").count() == 1 && !self.schema.contains('\0'),
                "a name with {id} in it",
            );
            c.require(
                "database",
                self.database.escape_debug(),
                self.database.matches("{id}").count() == 1 && !self.database.contains('\0'),
                "a name with {id} in it",
            );
            c.require(
                "shared_schemas",
                self.shared_schemas.escape_debug(),
                !self.shared_schemas.contains('\0'),
                "names separated by commas",
            );
            c.require(
                "setting",
                self.setting.escape_debug(),
                is_setting(&self.setting),
                "a name like app.tenant",
            );
        });
    }
}

fn is_setting(name: &str) -> bool {
    let plain = |part: &str| {
        let first = part.bytes().next();
        first.is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= 63
        && name
            .split_once('.')
            .is_some_and(|(class, name)| plain(class) && plain(name))
}
