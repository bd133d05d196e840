//! Retries that never do harm, around any [`Service`](db_core::Service): what failed for a passing reason is tried again
//! when it is known that it did not run, or that running it twice is harmless; with jitter, within the caller's deadline,
//! and within a budget that all callers share.
//!
//! ```
//! use db_core::{AcquireError, AcquireFailure, Call, Layer, Result, Rows, Service, Statement, service_fn};
//! use db_retry::{RetryLayer, RetryPolicy};
//! use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<()> {
//! // Any service will do: `Run(pool)` over a `PgPool` or a `db_pool::Pool`, other layers, or a stand-in like this one.
//! let tries = AtomicU32::new(0);
//! let restarting = service_fn(|_: Call| async {
//!     match tries.fetch_add(1, Ordering::Relaxed) {
//!         0 => Err(AcquireError::new(AcquireFailure::Down, Duration::ZERO).into()),
//!         _ => Ok(Rows::default()),
//!     }
//! });
//!
//! let policy = RetryPolicy::default();
//! let service = RetryLayer::new(policy.clone()).layer(restarting);
//! service.call(&Call::here(), &Statement::all("INSERT INTO orders VALUES (1)")?).await?; // nothing was sent at first
//! assert_eq!(policy.stats().retries(), 1);
//! # Ok(()) }
//! ```
//!
//! # What is tried again
//! [`decide`] is the whole rule, a pure function of the error and the [`Situation`]:
//!
//! | what is known | statement of its own | in a transaction | at COMMIT |
//! |---|---|---|---|
//! | not sent | any | the whole transaction | |
//! | rejected, for a passing reason | any that the rejection undid | the whole transaction | the whole transaction, after 40001 and 40P01 |
//! | may have run | true reads, and what is `idempotent` | the whole transaction | never: the outcome is unknown |
//!
//! Sheds, timeouts, cancelled statements and errors of the statement itself are never tried again.
//!
//! # Using it alone
//! [`around`] repeats any closure whose error implements [`Retryable`]. [`RetryPolicy::transaction`] decides for a driver
//! of transactions. [`RetryBudget`], [`Backoff`] and [`decide`] work without any of it.

mod around;
mod attempts;
mod backoff;
mod books;
mod budget;
mod classify;
mod config;
mod course;
mod layer;
mod policy;
mod service;
mod stats;
mod transaction;
mod transaction_books;

pub use around::{Retryable, around, around_until};
pub use backoff::{Backoff, BackoffPolicy, Decorrelated, Delays, Exponential, Pace};
pub use budget::RetryBudget;
pub use classify::{Effect, Fate, Phase, Situation, Verdict, decide, fate};
pub use config::{RetryConfig, Strategy};
pub use layer::RetryLayer;
pub use policy::{RetryParts, RetryPolicy};
pub use service::Retry;
pub use stats::{CauseStats, Durations, RetryStats, TransactionStats};
pub use transaction::{Next, TransactionRetry, Why};
