//! The way to a server through the PgBouncer that a whole test run shares.

use std::{env, net::SocketAddr, str::FromStr};

use sqlx::postgres::PgConnectOptions;

use crate::url;

/// Where that PgBouncer listens, as `127.0.0.1:6432`; set by `db-bench pg --pgbouncer`.
const POOLER: &str = "DB_STACK_PG_POOLER";
/// The server behind it.
const SERVER: &str = "DB_STACK_PG_URL";

/// Options that lead to the server of `DB_STACK_PG_URL` lead through the PgBouncer of `DB_STACK_PG_POOLER`, where both
/// are set; all others stay as they are. For what is under test, never for those who look from beside.
pub fn pooled(options: PgConnectOptions) -> PgConnectOptions {
    let server = env::var(SERVER)
        .ok()
        .and_then(|url| PgConnectOptions::from_str(&url).ok());
    match (pooler(), server) {
        (Some(pooler), Some(server)) if server.get_port() == options.get_port() && options.get_socket().is_none() => {
            options.host(&pooler.ip().to_string()).port(pooler.port())
        }
        _ => options,
    }
}

/// The same for the URL of a database of that server.
pub fn pooled_url(url: &str) -> String {
    match pooler() {
        Some(pooler) => url::with_address(url, pooler),
        None => url.to_owned(),
    }
}

fn pooler() -> Option<SocketAddr> {
    env::var(POOLER).ok()?.parse().ok()
}
