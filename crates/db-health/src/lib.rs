//! Health that tells the truth: a circuit breaker that can't get stuck, typed checks under one bound, liveness and
//! readiness that a busy pool does not turn red.
//!
//! The [`Breaker`] stands before one endpoint. It counts what is the server's fault (no connection, connections that
//! break, timeouts, SQLSTATE 08, 53, 57P0x, 58, 25006) and never what is the statement's, refuses calls with
//! [`BreakerOpen`](db_core::BreakerOpen) while there is no hope, lets a [`Probe`] find out on a connection of its own,
//! then a few real calls, then more and more.
//!
//! [`Health`] examines a [`Subject`] on a connection beside its pool: a [`HealthReport`] of typed checks under one bound,
//! [`Liveness`] and [`Readiness`] that ask nobody, a monitor that alerts, and with the feature `axum` a router with
//! `/livez`, `/readyz` and `/healthz`.
//!
//! ```
//! use db_core::{BreakerState, Call, Error, Layer, Observers, Result, Rows, Service, Statement, service_fn};
//! use db_health::{Breaker, BreakerConfig, BreakerLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<()> {
//! // Any service will do: `Run(pool)` over a `PgPool` or a `db_pool::Pool`, or a stand-in that has lost its server.
//! let breaker = Breaker::new(BreakerConfig::default(), Observers::default())?;
//! let service = BreakerLayer::new(breaker.clone())
//!     .layer(service_fn(|_: Call| async { Err::<Rows, _>(Error::from(sqlx::Error::WorkerCrashed)) }));
//!
//! let select = Statement::all("SELECT 1")?;
//! for _ in 0..20 {
//!     let _ = service.call(&Call::default(), &select).await;
//! }
//! assert_eq!(breaker.state(), BreakerState::Open);
//! let error = service.call(&Call::default(), &select).await.unwrap_err();
//! assert!(matches!(error, Error::Breaker(open) if open.retry_after.is_some()));
//! # Ok(()) }
//! ```

mod breaker;
mod health;

pub use breaker::{Boxed, Breaker, BreakerConfig, BreakerLayer, BreakerStats, Guarded, Outcome, Permit, Probe};
pub use health::{
    CallFacts, Check, CheckFn, CheckReport, Detail, Finding, Health, HealthConfig, HealthReport, Liveness, PoolFacts,
    Readiness, Reserved, Standing, Status, Subject, Tables, check_fn,
};
