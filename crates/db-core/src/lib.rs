//! The words of db-stack: what to run, what to run it on, and what can go wrong.
//!
//! An [`Operation`] knows what to do with a PostgreSQL connection and can do it again. It walks down a stack of
//! [`Service`] layers (seam 1: *what to run*) to [`Run`], which takes a lease from a [`Source`] (seam 2: *what to
//! run it on*). This crate holds the vocabulary and no policy: every other `db-*` crate depends on it and never on
//! a sibling, and it does no I/O of its own.
//!
//! ```no_run
//! use db_core::{Call, Error, Run, Service, Statement};
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
//! let stack = Run(pool); // a plain `PgPool` is a source; wrap layers around this service
//! let count = Statement::all("SELECT count(*) FROM orders WHERE account = $1")?;
//! let rows = stack.call(&Call::default(), &count).await?.rows;
//! # let _ = rows; Ok(()) }
//! ```

mod alarm;
mod arguments;
mod breaker;
mod call;
mod causal;
pub mod config;
mod error;
mod event;
mod facts;
mod lessor;
mod limit;
mod observer;
mod operation;
mod pooler;
mod priority;
mod reason;
mod report;
mod retry;
mod rows;
mod run;
mod service;
mod shed;
mod source;
mod spent;
mod sqlstate;
mod statement;
mod suspect;
mod tenant;
#[cfg(feature = "tower")]
mod tower;

pub use alarm::Alarm;
pub use breaker::{BreakerCause, BreakerOpen, BreakerState};
pub use call::{Call, QueryClass};
pub use causal::{BanReason, CausalSession, CausalToken, Lsn, NodeId, Seen, Target};
pub use error::{
    AcquireError, AcquireFailure, CausalError, ConnectFailure, Error, Holder, LimitOrigin, Result, Sent, ServerError,
    TimeoutError, TransactionAborted,
};
pub use event::{Event, LeaseOutcome};
pub use facts::{FactsCache, Fingerprint, StatementFacts, StatementKind, TableName};
pub use lessor::{EndSession, LeaseId, Lessor, Session, SessionState, Signalled};
pub use limit::LimitReason;
pub use observer::{Observer, Observers, Observing};
pub use operation::{Footprint, Operation};
pub use pooler::{NeedsSession, SharedSession};
pub use priority::Priority;
pub use reason::{CacheDrop, CloseReason};
pub use report::{CallReport, Outcome};
pub use retry::{GaveUp, RetryCause};
pub use rows::{Handoff, Rows, Step};
pub use run::Run;
pub use service::{Service, ServiceFn, service_fn};
pub use shed::ShedReason;
pub use source::{Attachment, Lease, LeaseNote, LeaseState, Source};
pub use spent::{Marks, Part, Spent, Waiting};
pub use sqlstate::{SqlState, SqlStateClass};
pub use statement::{Replay, Statement, Want, row_bytes};
pub use suspect::{LeaseCause, LeaseRevoked, Suspect, TransactionState};
pub use tenant::Tenant;
#[cfg(feature = "tower")]
pub use tower::{FromTower, IntoTower};
pub use tower_layer::{Layer, layer_fn};
