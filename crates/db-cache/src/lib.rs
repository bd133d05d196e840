//! A result cache for PostgreSQL that is never wrong: keys that lose nothing, one read per key at a time, and answers
//! that are gone before the writer of what they show hears of the end of its write.
//!
//! [`Cache`] holds answers of any type under a [`Key`]. A read [begins](Cache::begin) with a look-up; the one caller who
//! has to read gets a [`Lead`], all others wait for it. Entries know the tables that they depend on: the server's own
//! catalogue resolves views, partitions, functions and row-level security. Writes are told by [`WriteLayer`] and its
//! kin, those of other processes by triggers ([`WATCH_SQL`]) and one listening connection.
//!
//! ```
//! use db_cache::{Begin, Cache, CacheConfig, Fetch, KeySeed, Policy, Request};
//! use db_core::{Observers, Statement};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), db_core::Error> {
//! let cache = Cache::new(CacheConfig::default(), Observers::default())?;
//! let seed = KeySeed::random(&[b"localhost/orders", b"app"]);
//!
//! let mut query = Statement::all(sqlx::query("SELECT name FROM items WHERE id = $1").bind(7))?;
//! let key = seed.key().fetch(Fetch::All).statement(&mut query);
//! let policy = Policy::default();
//! match cache.begin::<Vec<String>>(&Request::new(key, query.facts(), &policy)).await? {
//!     Begin::Hit(names) => println!("{:?}, {:?} old", *names, names.age()),
//!     // Read it, then `lead.fill(value, bytes, false)`, or `lead.fail(error)`.
//!     Begin::Read(lead) => drop(lead),
//!     // Without a server there is no schema: what the answer depends on is not known, and it is not kept.
//!     other => assert!(matches!(other, Begin::Bypass(_))),
//! }
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! After a write through the stack has returned, no answer that began before it is given out: neither from memory nor
//! by joining a read under way. Writes that nobody here controls are seen when their notification arrives; once the
//! listening connection has not proved alive for two heartbeats, nothing is given out until it is back, and then all
//! that was kept is gone. Tables that nobody watches are seen when an answer's time is over.
//!
//! # Reads that are behind
//! An answer may be read where writes arrive late, on a replica: [`Request::lag`] says how far behind a read may be, and
//! [`Lead::since`] what it must show at least. That is never before the latest invalidation of what it reads, so that a
//! replica that has not replayed a position of later is out of the question. A caller who has seen something already says
//! when ([`Request::since`]), and has no answer that is older.

mod books;
mod cache;
mod catalogue;
mod config;
mod entry;
mod flight;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod layer;
mod lead;
mod listener;
mod request;
mod serve;
mod signal;
mod store;
mod tier;
mod versions;
mod watch;
mod writes;

pub use books::{CacheCalls, CacheStats};
pub use cache::Cache;
pub use catalogue::Uncacheable;
pub use config::CacheConfig;
pub use entry::{Answer, Freshness};
pub use key::{Fetch, Key, KeyBuilder, KeySeed};
pub use layer::{CacheLayer, Cacheable, Cached, WatchWrites, WriteLayer};
pub use lead::{Lead, Outcome, is_outage};
pub use listener::CHANNEL;
pub use request::{Begin, Policy, Request};
pub use store::allocated;
#[cfg(feature = "redis")]
pub use tier::RedisTier;
pub use tier::{Kept, Sharing, Tier, TierError, TierStats};
pub use watch::{UNWATCH_SQL, WATCH_SQL};
pub use writes::{TransactionWrites, Writer, Writing, Wrote};
