//! `Db`: the drop-in for sqlx's `PgPool` that joins the db-* layers into one stack.
//!
//! Change the type and keep every query: `&Db` is an `sqlx::Executor`, so `sqlx::query!`, `query_as!`, streams, COPY
//! and migrations work as they are, over warm leases that cost no ping, survive cancellation and name the reason
//! when there is none.
//!
//! ```no_run
//! use db_stack::Db;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Db::connect("postgres://localhost/app").await?; // was: PgPool::connect
//! let open: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE state = $1")
//!     .bind("open")
//!     .fetch_one(&db)
//!     .await?;
//!
//! let mut tx = db.begin().await?;
//! sqlx::query("UPDATE accounts SET balance = balance - 1 WHERE id = $1").bind(7).execute(&mut *tx).await?;
//! tx.commit().await?; // an error if a statement in it failed: never a silent ROLLBACK
//! # let _ = open; Ok(()) }
//! ```

mod acquire;
mod builder;
mod cached;
#[cfg(feature = "axum")]
mod carry;
pub mod config;
mod copy;
mod db;
mod discover;
mod endpoint;
mod events;
mod executor;
mod fair;
mod follow;
mod health;
mod lease;
mod limits;
mod listener;
mod node;
mod nodes;
mod once;
mod priority;
mod replicas;
mod savepoint;
mod stack;
mod stream;
mod tagging;
mod telemetry;
mod tenant;
mod transaction;
mod tx;
mod tx_attempts;
mod tx_conn;
mod tx_options;
mod tx_status;
mod warm;

pub use builder::DbBuilder;
#[cfg(feature = "l2")]
pub use cached::SharedCached;
pub use cached::{CacheHandle, CacheableQuery, Cached};
#[cfg(feature = "axum")]
pub use carry::Carry;
pub use config::DbConfig;
pub use db::Db;
#[cfg(feature = "l2")]
pub use db_cache::RedisTier;
pub use db_cache::{
    Answer, CacheCalls, CacheStats, Fetch as CacheFetch, Freshness, Kept as TierKept, Key as CacheKey,
    Sharing as TierSharing, Tier, TierError, TierStats,
};
pub use db_core::{
    AcquireError, AcquireFailure, BreakerCause, BreakerOpen, BreakerState, Call, CausalError, CausalSession,
    CausalToken, CloseReason, ConnectFailure, Error, Event, Holder, LeaseCause, LeaseRevoked, NeedsSession, Observer,
    Priority, QueryClass, Result, Sent, ServerError, Session, SessionState, ShedReason, SqlState, SqlStateClass,
    StatementFacts, StatementKind, Suspect, TransactionAborted, TransactionState,
    config::{InvalidConfig, InvalidKey, Mode},
};
pub use db_health::{
    Breaker, BreakerConfig, BreakerStats, Check, CheckReport, Detail, Finding, HealthReport, Liveness, Readiness,
    Status, check_fn,
};
pub use db_leak::{LeakCounts, Leases, OpenLease, SiteUsage, UseTimes};
pub use db_metrics::{Meter, Server};
pub use db_pool::{
    CloseReport, OptionsSource, PoolConfig, PoolStats, Pooler, PrioritiesConfig, PriorityStats, SessionConfig,
    ShareConfig, StatementStats, StatementUse, StatementsConfig,
};
pub use db_replica::{Cluster, ClusterStats, NodeStats, ReplicaStats, Standing, Writes};
pub use db_retry::{CauseStats, Durations, RetryBudget, RetryStats, TransactionStats};
pub use db_timeout::{ClassLimits, TimeoutStats};
pub use discover::dns_nodes;
pub use events::Events;
pub use follow::{Followed, Following};
pub use lease::Lease;
pub use listener::{Listener, Message};
pub use once::{ONCE_TABLE, Once};
pub use priority::with_priority;
pub use savepoint::Savepoint;
pub use tx::Tx;
pub use tx_attempts::TxAttempts;
pub use tx_conn::TxConn;
pub use tx_options::{Isolation, TxOptions};
pub use warm::WarmUp;
