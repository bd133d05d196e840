//! Warm leases around an sqlx PostgreSQL pool: the default [`Source`](db_core::Source) of db-stack.
//!
//! sqlx's pool pays two round trips and a spawned task for each checkout, hands out connections that a cancelled
//! caller left inside a transaction, loses its permit to a dead peer for ever and says "timed out" for everything.
//! This pool keeps its connections in a LIFO hot set, hands a returned one straight to the next waiter, tests only
//! after an idle window, opens connections in its own task, makes abandoned ones clean in quarantine, and tells why
//! there was none.
//!
//! ```no_run
//! use db_pool::{Pool, PoolConfig};
//!
//! # async fn example() -> db_core::Result<()> {
//! let pool = Pool::connect("postgres://localhost/app", PoolConfig::default()).await?;
//! let mut lease = pool.acquire().await?; // derefs to `sqlx::PgConnection`
//! let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *lease).await?;
//! # assert_eq!(one, 1); Ok(()) }
//! ```

mod acquire;
mod admission;
mod beside;
mod book;
mod census;
mod close;
mod config;
mod conn;
mod control;
mod dial;
mod forecast;
mod governor;
mod holders;
mod home;
mod homes;
mod inner;
mod keeper;
mod lane;
mod lease;
mod lessor;
mod limit;
mod limiter;
mod moves;
mod plans;
mod pool;
mod pooler;
mod priorities;
mod quarantine;
mod queue;
mod reaper;
mod shared;
mod shares;
mod standing;
mod state;
mod statement_stats;
mod statements;
mod stats;
mod thrash;
mod warm;

pub use beside::Beside;
pub use close::CloseReport;
pub use config::{PoolConfig, SessionConfig};
pub use dial::OptionsSource;
pub use inner::Lent;
pub use lease::PoolLease;
pub use limit::{LimitConfig, LimitPolicy};
pub use moves::Server;
pub use pool::{Pool, PoolBuilder};
pub use pooler::Pooler;
pub use priorities::{PrioritiesConfig, ShareConfig};
pub use statement_stats::{StatementStats, StatementTotals, StatementUse};
pub use statements::StatementsConfig;
pub use stats::{PoolStats, PriorityStats};
