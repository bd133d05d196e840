//! Who holds which lease, for how long and why: around any [`Source`](db_core::Source) of leases.
//!
//! Every lease is noted with its call site, class, task, last statement and transaction. One that is out for longer than
//! its class allows is a *suspect*: the server is asked what its session does, and the suspect is reported once, with its
//! cause. In `enforce` mode one that is out for much longer is taken back: its session is ended on the server and its
//! place in the pool serves others. A task that holds a lease, leaves it unused and waits for another one of an exhausted
//! pool is refused, with both call sites.
//!
//! ```
//! use db_core::Layer;
//! use db_leak::LeakLayer;
//!
//! # async fn example(pool: sqlx::PgPool) -> db_core::Result<()> {
//! // Around a plain `PgPool`: call sites and ages. Around `db_pool::Pool`: the server's view and reclaim as well.
//! let leaks = LeakLayer::default();
//! let source = leaks.layer(pool);
//!
//! let lease = source.acquire_here().await?;
//! for open in leaks.leases().open {
//!     println!("{open}");
//! }
//! # drop(lease); Ok(()) }
//! ```
//!
//! # What it costs
//! What is noted lives with the connection from one lease to the next, so a checkout allocates nothing, shares no counter
//! with other threads and reads the clock no more often than the pool does already: `cargo xtask prove leaks` measures
//! it. Nothing is asked of the server before a lease is suspect.

mod cause;
mod config;
mod holding;
mod layer;
mod leak;
mod lease;
mod ledger;
mod nested;
mod reclaim;
mod record;
mod sample;
mod task;
mod usage;
mod view;
mod watch;

pub use config::{LeakConfig, Threshold};
pub use layer::LeakLayer;
pub use leak::Leak;
pub use lease::Tracked;
pub use usage::{SiteUsage, UseTimes};
pub use view::{LeakCounts, Leases, OpenLease};
