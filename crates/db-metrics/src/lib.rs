//! Metrics, traces, the slow-query log, dashboards, alerts and a live page, made from the events of the stack.
//!
//! [`ObserveLayer`] measures calls and tells [`Observers`](db_core::Observers); a [`Meter`] is one, counts them
//! in pages of its threads, and hands them to the `metrics` facade when somebody looks.
//!
//! ```
//! use db_core::{Call, Layer, Observers, Result, Rows, Service, Statement, service_fn};
//! use db_metrics::{Meter, MetricsConfig, ObserveLayer, SpanTarget, TracingConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let observers = Observers::default(); // those of the other layers
//! let meter = Meter::new(MetricsConfig::default(), &observers)?;
//! let layer = ObserveLayer::new(observers, TracingConfig::default(), SpanTarget::default());
//! let service = layer.layer(service_fn(|_: Call| async { Ok::<_, db_core::Error>(Rows::default()) }));
//!
//! service.call(&Call::here(), &Statement::all("SELECT 1 FROM orders")?).await?;
//! let text = meter.render();
//! assert!(text.contains(r#"ava_db_queries_total{operation="select",status="success"} 1"#));
//! assert!(text.contains(r#"ava_db_table_queries_total{table="orders",operation="select"} 1"#));
//! # Ok(()) }
//! ```

#![cfg_attr(
    not(feature = "prometheus"),
    allow(dead_code, reason = "the live page comes with the exporter")
)]

mod bounded;
mod conditions;
mod config;
#[cfg(feature = "prometheus")]
mod exporter;
mod happened;
mod live;
mod measures;
mod meter;
pub mod monitoring;
mod observe;
#[cfg(feature = "otlp")]
pub mod otlp;
mod publish;
mod readings;
pub mod registry;
mod scraped;
mod slow;
mod span;
mod statements;
mod tags;
mod tally;

pub use config::{Exporter, MetricsConfig, TracingConfig};
#[cfg(feature = "prometheus")]
pub use exporter::Server;
pub use meter::Meter;
pub use observe::{Observe, ObserveLayer, SpanTarget};
pub use readings::{PoolReading, Read, Readings};
pub use registry::{Id, NameSet};
pub use slow::{Address, SlowLog, SlowQueryConfig};
pub use span::SpanEvents;
pub use tags::Tags;
