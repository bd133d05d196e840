//! Reads on replicas that never show a session the past, around any [`Service`](db_core::Service): the topology is watched
//! (roles are verified, not believed), reads go to the better of two replicas, a session's reads see what it wrote, and
//! writes follow a failover.
//!
//! ```no_run
//! use db_core::{Call, Layer, Observers, Result, Run, Service, CausalSession, Statement};
//! use db_replica::{Cluster, Member, ReplicaConfig, ReplicaLayer};
//! use sqlx::{PgPool, postgres::{PgConnectOptions, PgPoolOptions}};
//! use std::sync::Arc;
//!
//! # async fn example(a: PgConnectOptions, b: PgConnectOptions) -> Result<()> {
//! // A plain `PgPool` for each node; any other stack will do.
//! let pool = |options: &PgConnectOptions| PgPoolOptions::new().connect_lazy_with(options.clone());
//! let writer = pool(&a);
//! let follow = { let writer = writer.clone(); move |to: &Member| writer.set_connect_options(to.options().clone()) };
//! let nodes = vec![Member::new(a), Member::new(b)];
//! let cluster = Cluster::new(ReplicaConfig::default(), nodes, Observers::default(), follow)?;
//! let layer = ReplicaLayer::new(cluster, 10, move |node: &Member| Ok(Run(pool(node.options()))));
//! let service = layer.layer(Run(writer));
//!
//! let mut call = Call::here();
//! call.session = Some(Arc::new(CausalSession::default()));
//! service.call(&call, &Statement::all("INSERT INTO t VALUES (1)")?).await?; // on the primary
//! service.call(&call, &Statement::all("SELECT * FROM t")?).await?; // on a replica that has the row
//! # Ok(()) }
//! ```
//!
//! # What is promised
//! *Read your writes* and *monotonic reads*, for each [`CausalSession`](db_core::CausalSession) and for whoever is handed its
//! [`CausalToken`](db_core::CausalToken). Not more: two sessions can see two writes in different orders on two replicas,
//! since PostgreSQL's replicas make commits visible in another order than the primary (a *long fork*, found by Jepsen), and
//! a read outside a session may be as old as [`ReplicaConfig::max_lag`]. Writes that an asynchronous failover has lost
//! are lost; a token of theirs is an error that says so.
//!
//! # What it costs
//! A write pays nothing: the session remembers when it ended. The first read after it asks the primary where it is, on the
//! watching connection, one question for all reads that wait; then a replica that has replayed that position answers, is
//! waited for ([`ReplicaConfig::causal_wait`]), or is passed over for the primary.

mod causality;
mod cluster;
mod config;
mod discover;
mod fallback;
mod head;
mod hedge;
mod layer;
mod load;
mod member;
#[cfg(test)]
mod model_tests;
mod node;
mod outlier;
mod p2c;
mod picked;
mod probe;
mod readers;
mod roster;
mod route;
mod routed;
mod routing;
mod shared;
mod standing;
mod stats;
mod ticket;
mod trail;
mod urls;
mod watch;

pub use cluster::Cluster;
pub use config::ReplicaConfig;
pub use head::Writes;
pub use layer::ReplicaLayer;
pub use member::Member;
pub use picked::Picked;
pub use probe::position_of;
pub use routed::{Place, Routed};
pub use standing::Standing;
pub use stats::{ClusterStats, NodeStats, ReplicaStats};
pub use urls::NodeUrls;
