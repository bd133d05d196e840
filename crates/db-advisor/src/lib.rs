//! Advice measured on the own database: workload, indexes, plans, PgBouncer, and the command `db-stack`.
//!
//! Everything here looks through one read-only session with limits, takes no lock stronger than ACCESS SHARE, runs no
//! statement of the application, and says what it could not see. Nothing is ever created, changed or cancelled but by
//! `db-stack migrate`, which says what it installs.
//!
//! ```no_run
//! use db_advisor::{DoctorOptions, Format, Looking, doctor};
//!
//! # async fn example() -> Result<(), db_advisor::AdvisorError> {
//! let mut looking = Looking::connect("postgres://reader@localhost/shop").await?;
//! let report = doctor(&mut looking, &DoctorOptions::default(), None).await?;
//! println!("{}", report.render(Format::Text));
//! # Ok(()) }
//! ```

mod advice;
mod candidate;
mod doctor;
mod error;
mod explain;
mod finding;
pub mod migrate;
mod pgbouncer_ini;
mod plan;
mod predicate;
mod report;
mod session;
mod top;
mod workload;

pub use advice::IndexAdvice;
pub use doctor::{DoctorOptions, KnownPlan, Outside, Report, Snapshot, doctor};
pub use error::AdvisorError;
pub use explain::{ExplainConfig, Explainer, Refusal};
pub use finding::{Area, Finding, Severity};
pub use pgbouncer_ini::PoolerLoad;
pub use plan::{Node, Plan};
pub use report::Format;
pub use session::Looking;
pub use top::{Active, Moment};
pub use workload::{BothSides, ClientLoad, NoWorkload, StatementLoad, Workload};
