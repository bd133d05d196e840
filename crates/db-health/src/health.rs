//! Reports, liveness, readiness, and the monitor behind them.

mod check;
mod checks;
mod config;
mod detail;
mod handle;
mod lane;
mod monitor;
mod report;
#[cfg(feature = "axum")]
mod router;
mod standing;
mod subject;
mod vitals;

pub use check::{Check, CheckFn, check_fn};
pub use config::{HealthConfig, Tables};
pub use detail::Detail;
pub use handle::Health;
pub use report::{CheckReport, Finding, HealthReport, Status};
pub use standing::Standing;
pub use subject::{CallFacts, PoolFacts, Reserved, Subject};
pub use vitals::{Liveness, Readiness};
