//! On whose behalf a call is made.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

/// A tenant of the application. Cheap to clone; compared by its whole id.
///
/// Whoever makes one has checked the id; nothing here puts it into SQL.
#[derive(Clone)]
pub struct Tenant {
    id: Arc<str>,
    key: u64,
}

impl Tenant {
    /// The tenant of this id.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let id = id.into();
        let key = foldhash::fast::FixedState::default().hash_one(&*id);
        Self { id, key }
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A number for tables of fair shares, where two tenants that collide do each other no harm but to share one.
    pub fn key(&self) -> u64 {
        self.key
    }
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.id == other.id
    }
}

impl Eq for Tenant {}

impl Hash for Tenant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An id may be a customer's name: logs get the number.
        write!(f, "Tenant({:016x})", self.key)
    }
}
