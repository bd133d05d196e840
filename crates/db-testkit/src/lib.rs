//! A throwaway real PostgreSQL and a fault-injecting TCP proxy, for tests, benches and demos.
//!
//! Mocks do not deadlock, fail over or lose a COMMIT's answer; a real server does all that in milliseconds, if it is easy
//! to have and easy to hurt. [`Postgres`] starts one as a child of the test, kills it, freezes it, restarts it and makes
//! replicas of it. [`FaultProxy`] stands before any server and delays, throttles, swallows or cuts what passes, down to
//! "right after COMMIT was sent". [`database()`] gives a test a database of its own: on the server named by
//! `DB_STACK_PG_URL` where a runner has set one, else on an own server. Nothing needs to be installed but the programs of
//! PostgreSQL 14 or newer (`DB_STACK_PG_BIN` names their folder if it is an unusual one); root is fine, the server then
//! runs as `postgres` or `nobody`. Servers live in memory where there is room (`DB_STACK_PG_DIR` names another place).
//! Everything that waits has a bound.
//!
//! ```no_run
//! use db_testkit::{Cut, FaultProxy, Postgres};
//! use sqlx::{Connection, PgConnection};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Postgres::start().await?;
//! let proxy = FaultProxy::start(server.addr()).await?;
//! let mut connection = PgConnection::connect(&proxy.url_for(&server)).await?;
//!
//! proxy.cut_at(Cut::after_reply("COMMIT"));
//! let transaction = connection.begin().await?;
//! assert!(transaction.commit().await.is_err(), "committed, but we never hear of it");
//!
//! server.kill().await?;
//! server.start_again().await?;
//! # Ok(())
//! # }
//! ```

mod account;
mod binaries;
mod builder;
mod cluster;
mod database;
mod error;
mod faults;
#[cfg(feature = "fetch")]
mod fetch;
mod home;
mod keeper;
mod lifecycle;
mod pgbouncer;
mod pooled;
mod postgres;
mod process;
mod process_tree;
mod proxy;
mod recipe;
mod redis;
mod replica;
mod shared;
mod shared_memory;
mod skip;
mod sweep;
mod template;
mod test_database;
mod url;

pub use builder::PostgresBuilder;
pub use database::Database;
pub use error::{ServerError, StartError};
pub use lifecycle::Shutdown;
pub use pgbouncer::{PgBouncer, PgBouncerBuilder, PgBouncerProgram};
pub use pooled::{pooled, pooled_url};
pub use postgres::Postgres;
pub use proxy::{Counters, Cut, CutStyle, Direction, Fault, FaultProxy, Matches, Scope, When};
pub use redis::Redis;
pub use shared::shared;
pub use skip::skip;
pub use template::Template;
pub use test_database::{TestDatabase, database};
