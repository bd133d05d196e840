//! On whose behalf a call is made.

use crate::Db;
use db_core::Tenant;
use std::sync::Arc;

impl Db {
    /// The same database for calls on behalf of a tenant: its answers are never another's, and connections can be shared
    /// out by tenant.
    #[must_use]
    #[track_caller]
    pub fn tenant(&self, id: impl Into<Arc<str>>) -> Self {
        self.with(|call| call.tenant = Some(Tenant::new(id)))
    }
}
