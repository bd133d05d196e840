//! An address of a node.

use sqlx::postgres::PgConnectOptions;
use std::{fmt, sync::Arc};

/// A node of the cluster, whichever role it has at the moment.
#[derive(Clone)]
pub struct Member {
    name: Arc<str>,
    options: PgConnectOptions,
}

impl Member {
    /// A member with the name `host:port`.
    pub fn new(options: PgConnectOptions) -> Self {
        let name = match options.get_socket() {
            Some(folder) => format!("{}:{}", folder.display(), options.get_port()),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        Self {
            name: name.into(),
            options,
        }
    }

    /// What it is called in events, counts and errors; two members of one cluster never share it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How to connect to it.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sqlx's own `Debug` of the options prints the password.
        f.debug_tuple("Member").field(&self.name).finish()
    }
}
