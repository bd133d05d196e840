//! The circuit breaker of one endpoint.

mod config;
mod handle;
mod layer;
mod machine;
#[cfg(test)]
mod machine_tests;
mod outcome;
mod permit;
mod probe;
mod stats;
mod window;

pub use config::BreakerConfig;
pub use handle::Breaker;
pub use layer::{BreakerLayer, Guarded};
pub use outcome::Outcome;
pub use permit::Permit;
pub use probe::{Boxed, Probe};
pub use stats::BreakerStats;
