//! How long a call may take, around any [`Service`](db_core::Service): by class, by the caller's wish, by what was
//! learned about its statement. The nearest wins, and covers waiting for a lease, retries and execution together.
//!
//! ```
//! use db_core::{Call, Error, Layer, QueryClass, Result, Rows, Service, Statement, service_fn};
//! use db_timeout::TimeoutLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<()> {
//! // Any service will do: `Run(pool)` over a `PgPool` or a `db_pool::Pool`, other layers, or a stand-in that hangs.
//! let layer = TimeoutLayer::default();
//! let service = layer.layer(service_fn(|_: Call| std::future::pending::<Result<Rows>>()));
//!
//! let call = Call::here().with_class(QueryClass::Instant); // 200 ms
//! let error = service.call(&call, &Statement::all("SELECT pg_sleep(30)")?).await.unwrap_err();
//! assert!(matches!(error, Error::Timeout(timeout) if timeout.limit.as_millis() == 200));
//! assert_eq!(layer.stats().classes()[0].counts.timed_out, 1);
//! # Ok(()) }
//! ```
//!
//! # What ends at the limit
//! The layer stops waiting: it drops the future inside it and returns [`Error::Timeout`](db_core::Error::Timeout), no
//! more. Over `db_pool::Pool` the dropped lease goes through quarantine, which cancels the statement on the server and
//! makes the connection clean for the next caller. Over a plain `PgPool` the caller is free as soon, but the statement
//! runs on and keeps its connection, as with every timeout around sqlx. A call that ends in time costs no round trip.
//!
//! Layers below get the limit as [`Call::deadline`](db_core::Call::deadline) and may fail at it with an error of their
//! own, such as an exhausted pool with its holders: it says more, so it is passed on. To leave it the last word, the
//! layer itself waits 1 ms longer. A call whose limit has passed before it began is refused and nothing is sent. Once a
//! streamed call has handed out rows, only a limit that its caller named ends it, and its duration teaches nothing.
//!
//! # Using it alone
//! Put it outside of a retry layer, so that one limit covers all attempts; a second one inside limits each attempt, since
//! limits nest and the nearest wins. Set [`Call::statement`](db_core::Call::statement), or nothing is counted and learned
//! by statement. Classes of your own go to [`TimeoutConfig::custom`] and are called by
//! [`QueryClass::Custom`](db_core::QueryClass::Custom):
//!
//! ```
//! # use db_timeout::{AdaptiveConfig, ClassLimits, TimeoutConfig};
//! # use db_core::config::Mode;
//! # use std::time::Duration;
//! let config = TimeoutConfig {
//!     custom: [("nightly".into(), ClassLimits { timeout: Duration::from_secs(600), ..ClassLimits::BATCH })].into(),
//!     adaptive: AdaptiveConfig { mode: Mode::Observe, ..AdaptiveConfig::default() },
//!     ..TimeoutConfig::default()
//! };
//! ```
//!
//! # Learned limits
//! Off by default. [`AdaptiveConfig`] turns the 95th percentile of each statement, times 1.5, into a limit: never above
//! that of the class, never below a floor, not before 100 calls, forgotten within two windows. The layer sees whole
//! calls, so waiting for a lease counts on both sides. Timeouts are not learned as durations; when more than a share of
//! a statement's last 64 calls passed its learned limit, the limit doubles and learning starts again, so that a
//! statement that became slower is not locked out.
//!
//! # Backstop
//! A client that dies cancels nothing: keep the server's `statement_timeout` at [`TimeoutConfig::longest`] plus a margin.

mod around;
mod books;
mod class;
mod config;
mod layer;
mod learner;
mod ledger;
mod limit;
mod recent;
mod service;
mod stats;
mod watch;

pub use class::ClassLimits;
pub use config::{AdaptiveConfig, TimeoutConfig};
pub use layer::TimeoutLayer;
pub use service::Timeout;
pub use stats::{ClassStats, Counts, StatementStats, TimeoutStats, Times};
