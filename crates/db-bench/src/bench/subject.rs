//! Who is measured.

use super::{
    closed::{self, Closed},
    deadpool,
    driver::Leases,
    open::{self, Open},
    pgbench::Pgbench,
    sample::Sample,
    scenario::Scenario,
    server::Target,
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use db_core::Run;
use db_pool::{Pool, PoolConfig};
use db_stack::Db;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{sync::Arc, time::Duration};

/// Connections of every subject.
pub(crate) const CONNECTIONS: u32 = 8;

/// One way to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Subject {
    /// `PgPool` as it comes.
    Sqlx,
    /// `PgPool` without the ping before each use.
    SqlxNoping,
    /// deadpool-postgres with `prepare_cached`.
    Deadpool,
    /// `db_core::Run` over `db_pool::Pool`: no layer, no facade.
    Lease,
    /// `Db`: the full stack, through sqlx's `Executor`.
    Db,
    /// `pgbench -M prepared -S`, with as many connections.
    Pgbench,
}

impl Subject {
    /// The name in tables and ratio lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::SqlxNoping => "sqlx-noping",
            Self::Deadpool => "deadpool",
            Self::Lease => "lease",
            Self::Db => "db",
            Self::Pgbench => "pgbench",
        }
    }
}

/// All subjects, connected to one server at the same time.
#[derive(Debug)]
pub(crate) struct Subjects {
    sqlx: Arc<PgPool>,
    noping: Arc<PgPool>,
    deadpool: Arc<deadpool_postgres::Pool>,
    lease: Arc<Leases>,
    db: Arc<Db>,
    pgbench: Option<Pgbench>,
}

impl Subjects {
    /// Pools with [`CONNECTIONS`] connections each and every other setting as it comes.
    pub(crate) async fn connect(target: &Target) -> Result<Self> {
        let options = || target.sqlx_options();
        let sqlx = || PgPoolOptions::new().max_connections(CONNECTIONS);
        let config = PoolConfig {
            max_connections: CONNECTIONS,
            ..PoolConfig::default()
        };
        Ok(Self {
            sqlx: Arc::new(sqlx().connect_with(options()?).await?),
            noping: Arc::new(sqlx().test_before_acquire(false).connect_with(options()?).await?),
            deadpool: Arc::new(deadpool::pool(target.tokio_options()?, CONNECTIONS)?),
            lease: Arc::new(Leases(Run(Pool::builder(options()?, config).build()?))),
            db: Arc::new(
                Db::builder()
                    .options(options()?)
                    .max_connections(CONNECTIONS)
                    .connect()
                    .await?,
            ),
            pgbench: Pgbench::find(target),
        })
    }

    /// Whether `subject` can do `scenario`.
    pub(crate) fn can(&self, subject: Subject, scenario: Scenario) -> bool {
        subject != Subject::Pgbench || (self.pgbench.is_some() && scenario == Scenario::PointSelect)
    }

    /// One cell of the closed loop.
    pub(crate) async fn closed(&self, subject: Subject, cell: Closed) -> Result<Sample> {
        let outcome = match subject {
            Subject::Sqlx => closed::run(&self.sqlx, cell).await,
            Subject::SqlxNoping => closed::run(&self.noping, cell).await,
            Subject::Deadpool => closed::run(&self.deadpool, cell).await,
            Subject::Lease => closed::run(&self.lease, cell).await,
            Subject::Db => closed::run(&self.db, cell).await,
            Subject::Pgbench => match &self.pgbench {
                // A client of pgbench is a connection: there is nothing for more tasks than connections to wait for.
                Some(pgbench) => pgbench.run(cell.tasks.min(CONNECTIONS), cell.span, cell.seed).await,
                None => bail!("pgbench is not installed"),
            },
        };
        outcome.with_context(|| format!("{} in {}, {} tasks", subject.name(), cell.scenario.name(), cell.tasks))
    }

    /// One cell of the open loop.
    pub(crate) async fn open(&self, subject: Subject, cell: Open) -> Result<Sample> {
        let outcome = match subject {
            Subject::Sqlx => open::run(&self.sqlx, cell).await,
            Subject::SqlxNoping => open::run(&self.noping, cell).await,
            Subject::Deadpool => open::run(&self.deadpool, cell).await,
            Subject::Lease => open::run(&self.lease, cell).await,
            Subject::Db => open::run(&self.db, cell).await,
            Subject::Pgbench => bail!("pgbench has no open loop here"),
        };
        outcome.with_context(|| {
            format!(
                "{} in {}, {:.0} arrivals/s",
                subject.name(),
                cell.scenario.name(),
                cell.rate
            )
        })
    }

    /// Closes every pool, with a bound: the server may be gone.
    pub(crate) async fn close(self) {
        let closing = async {
            self.db.close().await;
            self.lease.0.0.close().await;
            self.deadpool.close();
            self.noping.close().await;
            self.sqlx.close().await;
        };
        drop(tokio::time::timeout(Duration::from_secs(5), closing).await);
    }
}
