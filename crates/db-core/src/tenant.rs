//! On whose behalf a call is made.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

/// A tenant of the application. Cheap to clone; compared by its whole id.
#[derive(Clone)]
pub struct Tenant(Arc<Parts>);

/// Behind one pointer: every call carries it.
#[derive(Clone)]
struct Parts {
    id: Arc<str>,
    key: u64,
    scope: Option<Scope>,
    database: Option<Arc<str>>,
}

#[derive(Clone)]
struct Scope {
    /// What confines the transaction that it runs in.
    confine: Arc<str>,
    begin: SqlStr,
}

impl Tenant {
    /// The tenant of this id, on connections that are its own.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let id = id.into();
        let key = foldhash::fast::FixedState::default().hash_one(&*id);
        Self(Arc::new(Parts {
            id,
            key,
            scope: None,
            database: None,
        }))
    }

    /// A tenant with a database of its own on the same server: its calls run on connections to that one, and on no other.
    /// A name, not SQL: it goes into the start-up message as it is.
    #[must_use]
    pub fn in_database(mut self, name: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.0).database = Some(name.into());
        self
    }

    /// The database of its own.
    pub fn database(&self) -> Option<&Arc<str>> {
        self.0.database.as_ref()
    }

    /// A tenant on connections that it shares with others: everything runs in a transaction, which begins with
    /// `confine`, such as `SET LOCAL search_path TO "a"`. Whoever makes it has checked and quoted what is in there.
    #[must_use]
    pub fn confined_by(mut self, confine: &str) -> Self {
        Arc::make_mut(&mut self.0).scope = Some(Scope {
            confine: confine.into(),
            begin: AssertSqlSafe(format!("BEGIN; {confine}")).into_sql_str(),
        });
        self
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// A number for tables of fair shares, where two tenants that collide do each other no harm but to share one.
    pub fn key(&self) -> u64 {
        self.0.key
    }

    /// The statement that begins a transaction of a tenant on shared connections; nothing for any other.
    pub fn begin(&self) -> Option<SqlStr> {
        self.0.scope.as_ref().map(|scope| scope.begin.clone())
    }

    /// The same for a `BEGIN` of the caller's own.
    pub fn begin_with(&self, begin: SqlStr) -> SqlStr {
        match &self.0.scope {
            Some(scope) => AssertSqlSafe(format!("{}; {}", begin.as_str(), scope.confine)).into_sql_str(),
            None => begin,
        }
    }
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key && self.0.id == other.0.id
    }
}

impl Eq for Tenant {}

impl Hash for Tenant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An id may be a customer's name: logs get the number.
        write!(f, "Tenant({:016x})", self.0.key)
    }
}
