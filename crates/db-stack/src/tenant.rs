//! One database for many tenants, none of whom sees another's rows.

use crate::{
    Db,
    config::{Tenancy, TenantsConfig},
};
use db_core::{Error, Result, Tenant, config::InvalidConfig};

/// `NAMEDATALEN - 1`: the server cuts longer names, and two tenants would meet in one schema or database.
const LONGEST_NAME: usize = 63;
/// A row's tenant is compared, not looked up as a name: longer ones are a mistake or an attack.
const LONGEST_ID: usize = 1024;

impl Db {
    /// The same database for one tenant: every statement and every transaction of the handle sees that tenant's data
    /// alone. Statements run in a transaction of their own for it, which costs two more round trips; many in one
    /// [`Db::begin`] cost them once. A tenant uses at most `pool.tenant_share` of the connections, and takes turns with
    /// the others by the time it uses.
    ///
    /// What could outlive such a transaction is refused on the handle: leases of one's own, COPY, LISTEN, `SET`,
    /// `BEGIN` and `COMMIT` as statements.
    ///
    /// With a database for each tenant there is no such transaction and nothing to open beforehand: calls run on
    /// connections to that database, which are opened as they are needed, closed when they are idle or when others need
    /// their places, and count against the one budget. Of the above only what sqlx's own pool would have to open is
    /// refused (COPY on the handle, LISTEN, sqlx's own transactions), and no answers are kept in the cache.
    ///
    /// While `tenants.mode` is `off`, the default, nothing keeps tenants' data apart: the id only counts for shares of
    /// connections and for whose answers a cache may give.
    ///
    /// # Errors
    /// [`Error::Config`] when the id does not match `tenants.pattern`; it shows neither the
    /// id nor a part of it.
    #[track_caller]
    pub fn tenant(&self, id: &str) -> Result<Self> {
        let config = self.config();
        let tenant = confined(&config.tenants, id)?;
        Ok(self.with(|call| call.tenant = Some(tenant)))
    }

    /// Refuses what runs on connections to the handle's own database alone.
    pub(crate) fn at_home(&self, what: &str) -> Result<()> {
        self.unconfined(what)?;
        match self.call.tenant.as_ref().and_then(Tenant::database) {
            Some(_) => Err(refusal(
                what,
                "a lease, by acquire(), on the handle of a tenant with a database",
            )),
            None => Ok(()),
        }
    }

    /// Refuses what a tenant on shared connections can't have.
    pub(crate) fn unconfined(&self, what: &str) -> Result<()> {
        match self.call.tenant.as_ref().and_then(Tenant::begin) {
            Some(_) => Err(refusal(
                what,
                "statements, or a transaction by begin(), on a tenant's handle",
            )),
            None => Ok(()),
        }
    }
}

fn refusal(value: &str, allowed: &str) -> Error {
    InvalidConfig::one("tenant", value, allowed).into()
}

fn confined(config: &TenantsConfig, id: &str) -> Result<Tenant> {
    if config.mode == Tenancy::Off {
        return Ok(Tenant::new(id));
    }
    // The length first: a pattern must not be run over what is sent to wear it out.
    let known = id.len() <= LONGEST_ID
        && !id.is_empty()
        && !id.contains('\0')
        && config.compiled().is_some_and(|pattern| pattern.is_match(id));
    if !known {
        return Err(refusal("(an id)", "an id that matches tenants.pattern"));
    }
    let named = |pattern: &str, what: &str| {
        let name = pattern.replace("{id}", id);
        match name.len() > LONGEST_NAME {
            true => Err(refusal("(an id)", what)),
            false => Ok(name),
        }
    };
    let confine = match config.mode {
        Tenancy::Database => {
            let name = named(&config.database, "an id whose database has a name of at most 63 bytes")?;
            return Ok(Tenant::new(id).in_database(name));
        }
        Tenancy::Schema => {
            let schema = named(&config.schema, "an id whose schema has a name of at most 63 bytes")?;
            let path: Vec<_> = std::iter::once(&*schema)
                .chain(config.shared())
                .map(identifier)
                .collect();
            format!("SET LOCAL search_path TO {}", path.join(", "))
        }
        Tenancy::Row | Tenancy::Off => {
            format!("SELECT set_config({}, {}, true)", literal(&config.setting), literal(id))
        }
    };
    Ok(Tenant::new(id).confined_by(&confine))
}

/// A quoted identifier.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal that means the same whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(mode: Tenancy, pattern: &str, id: &str) -> Option<String> {
        let config = TenantsConfig {
            mode,
            pattern: pattern.to_owned(),
            ..TenantsConfig::default()
        };
        let begin = confined(&config, id).ok()?.begin()?;
        Some(begin.as_str().to_owned())
    }

    #[test]
    fn only_whole_matches_pass() {
        let default = TenantsConfig::default().pattern;
        assert_eq!(
            sql(Tenancy::Schema, &default, "acme").as_deref(),
            Some(r#"BEGIN; SET LOCAL search_path TO "tenant_acme", "public""#)
        );
        assert_eq!(
            sql(Tenancy::Row, &default, "acme").as_deref(),
            Some("BEGIN; SELECT set_config(E'app.tenant', E'acme', true)")
        );
        assert_eq!(sql(Tenancy::Off, &default, "acme"), None, "nothing is confined");
        for id in [
            "",
            "Acme",
            "acme\n",
            "\nacme",
            "a'b",
            "a\"b",
            "a b",
            "а",
            "acme\0",
            &"a".repeat(65536),
        ] {
            assert_eq!(sql(Tenancy::Row, &default, id), None, "{id:?}");
        }
    }

    #[test]
    fn a_database_is_named_and_nothing_is_confined() {
        let mut config = TenantsConfig {
            mode: Tenancy::Database,
            pattern: "(?s).*".to_owned(),
            ..TenantsConfig::default()
        };
        let database = |config: &TenantsConfig, id: &str| confined(config, id).map(|tenant| tenant.database().cloned());
        assert_eq!(database(&config, "acme").unwrap().as_deref(), Some("tenant_acme"));
        assert!(confined(&config, "acme").unwrap().begin().is_none());
        assert!(database(&config, &"a".repeat(56)).is_ok());
        assert!(
            database(&config, &"a".repeat(57)).is_err(),
            "the server would cut the name"
        );
        assert!(database(&config, "a\0user\0postgres").is_err());
        config.database = "{id}".to_owned();
        assert_eq!(database(&config, "Größe; --").unwrap().as_deref(), Some("Größe; --"));
    }

    #[test]
    fn a_pattern_that_lets_everything_in_lets_nothing_out() {
        let any = "(?s).*";
        assert_eq!(
            sql(Tenancy::Row, any, r"a'; DROP TABLE t; --\").as_deref(),
            Some(r"BEGIN; SELECT set_config(E'app.tenant', E'a''; DROP TABLE t; --\\', true)")
        );
        assert_eq!(
            sql(Tenancy::Schema, any, r#"a", public; --"#).as_deref(),
            Some(r#"BEGIN; SET LOCAL search_path TO "tenant_a"", public; --", "public""#)
        );
        assert_eq!(sql(Tenancy::Row, any, "a\0b"), None);
        assert_eq!(
            sql(Tenancy::Schema, any, &"a".repeat(57)),
            None,
            "the server would cut the name"
        );
        assert!(sql(Tenancy::Schema, any, &"a".repeat(56)).is_some());
    }
}
