//! The servers, and the proxies before them.

use std::{future::Future, mem, pin::Pin, time::Duration};

use anyhow::Context;
use db_testkit::{FaultProxy, PgBouncer, PgBouncerProgram, Postgres};
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};

use crate::prove::chaos::{disk::Disk, fault::Fault};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A primary and a replica, each behind a proxy of its own; and a server behind PgBouncer.
///
/// The proxies are the places that clients know: after a failover the primary stands at the other one.
pub(crate) struct Stage {
    pub(crate) primary: Postgres,
    pub(crate) replica: Postgres,
    nodes: [FaultProxy; 2],
    primary_at: usize,
    /// Before the primary for the pool without a stack, which knows one address alone.
    pub(crate) beside: FaultProxy,
    pub(crate) pooled: Pooled,
    adversaries: Adversaries,
}

/// A server behind a pooler.
pub(crate) struct Pooled {
    pub(crate) disk: Option<Disk>,
    program: Option<PgBouncerProgram>,
    bouncer: Option<PgBouncer>,
    pub(crate) server: Postgres,
    pub(crate) proxy: FaultProxy,
    pub(crate) beside: FaultProxy,
}

impl Stage {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let primary = Postgres::builder()
            .max_connections(100)
            // So that a deadlock is found out within the time that a step has.
            .setting("deadlock_timeout", "50ms");
        let primary = primary.start().await.context("no throwaway PostgreSQL")?;
        let mut admin = primary.admin().await?;
        for sql in [include_str!("schema.sql"), db_stack::ONCE_TABLE, db_cache::WATCH_SQL] {
            sqlx::raw_sql(sql).execute(&mut admin).await?;
        }
        sqlx::raw_sql("GRANT ALL ON db_stack_once TO app; SELECT db_cache.watch('cells')")
            .execute(&mut admin)
            .await?;
        let (replica, pooled) = tokio::try_join!(async { anyhow::Ok(primary.replica().await?) }, Pooled::start())?;
        replica.wait_caught_up(&primary, SOON).await?;
        let nodes = [
            FaultProxy::start(primary.addr()).await?,
            FaultProxy::start(replica.addr()).await?,
        ];
        let beside = FaultProxy::start(primary.addr()).await?;
        Ok(Self {
            primary,
            replica,
            nodes,
            primary_at: 0,
            beside,
            pooled,
            adversaries: Adversaries::default(),
        })
    }

    /// The faults that are possible here; why not, for the others.
    pub(crate) fn faults(&self) -> (Vec<Fault>, Vec<(Fault, &'static str)>) {
        let mut missing = Vec::new();
        if self.pooled.program.is_none() {
            missing.push((Fault::PoolerRestart, "PgBouncer is not installed"));
        }
        if self.pooled.disk.is_none() {
            missing.push((Fault::DiskFull, "mounting a tmpfs needs root"));
        }
        let possible = |fault: &Fault| missing.iter().all(|(missing, _)| missing != fault);
        (Fault::ALL.into_iter().filter(possible).collect(), missing)
    }

    /// URLs of the primary and of the other node, for the role `app`.
    pub(crate) fn urls(&self) -> [String; 2] {
        let url = |proxy: &FaultProxy| as_app(&proxy.url_for(&self.primary));
        [url(&self.nodes[0]), url(&self.nodes[1])]
    }

    pub(crate) fn beside_url(&self) -> String {
        as_app(&self.beside.url_for(&self.primary))
    }

    /// The proxies in the way of those who talk to the primary.
    pub(crate) fn ways(&self) -> [&FaultProxy; 2] {
        [&self.nodes[self.primary_at], &self.beside]
    }

    /// Connections that are open through the proxies: each is a task of ours.
    pub(crate) fn links(&self) -> u64 {
        let all = self
            .nodes
            .iter()
            .chain([&self.beside, &self.pooled.proxy, &self.pooled.beside]);
        all.map(|proxy| proxy.counters().open).sum()
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<PgConnection> {
        Ok(self.primary.admin().await?)
    }

    /// Kills the primary and promotes the replica, without the loss of a commit that anybody has heard of: from before the
    /// kill on, commits wait for the replica.
    pub(crate) async fn fail_over(&mut self, down: Duration) -> anyhow::Result<()> {
        self.primary.alter_system("synchronous_standby_names", "*").await?;
        self.primary.reload().await?;
        self.replica.wait_caught_up(&self.primary, SOON).await?;
        self.primary.kill().await?;
        tokio::time::sleep(down).await;
        self.replica.promote().await?;
        mem::swap(&mut self.primary, &mut self.replica);
        self.primary_at = 1 - self.primary_at;
        Ok(())
    }

    /// A new replica where the primary was that was killed.
    pub(crate) async fn rebuild(&mut self) -> anyhow::Result<()> {
        let replica = self.primary.replica().await?;
        self.nodes[1 - self.primary_at].set_upstream(replica.addr()).await?;
        // Who knows one address alone finds the replica there.
        self.beside.set_upstream(replica.addr()).await?;
        let old = mem::replace(&mut self.replica, replica);
        spawn_blocking(move || drop(old)).await?;
        Ok(())
    }

    /// Somebody tells the pool without a stack where the primary is.
    pub(crate) async fn tell_beside(&self) -> anyhow::Result<()> {
        self.beside.set_upstream(self.primary.addr()).await?;
        self.beside.cut_all(db_testkit::CutStyle::Finish);
        Ok(())
    }

    /// Somebody at work against the callers, until [`calm`](Self::calm).
    pub(crate) fn against(&mut self, work: impl FnOnce(watch::Receiver<bool>) -> Adversary) {
        self.adversaries.begin(work);
    }

    pub(crate) async fn calm(&mut self) {
        self.adversaries.end().await;
    }
}

impl Pooled {
    async fn start() -> anyhow::Result<Self> {
        let server = Postgres::builder().max_connections(100).start();
        let server = server.await.context("no throwaway PostgreSQL")?;
        let disk = Disk::mount(&server).await.ok();
        let mut admin = server.admin().await?;
        for sql in [include_str!("pooled.sql"), db_stack::ONCE_TABLE] {
            sqlx::raw_sql(sql).execute(&mut admin).await?;
        }
        let bulk = match &disk {
            Some(_) => {
                "CREATE TABLE bulk (n int8, pad text) TABLESPACE small; \
                        CREATE TABLE filler (pad text) TABLESPACE small; \
                        ALTER TABLE filler ALTER pad SET STORAGE PLAIN"
            }
            None => "CREATE TABLE bulk (n int8, pad text)",
        };
        sqlx::raw_sql(bulk).execute(&mut admin).await?;
        // The newest, which follows prepared statements, so that the pool without a stack works at all.
        let program = PgBouncer::programs().pop();
        let bouncer = match &program {
            Some(program) => Some(bouncer(program, &server).await?),
            None => None,
        };
        let at = bouncer.as_ref().map_or(server.addr(), PgBouncer::addr);
        let (proxy, beside) = (FaultProxy::start(at).await?, FaultProxy::start(at).await?);
        Ok(Self {
            disk,
            program,
            bouncer,
            server,
            proxy,
            beside,
        })
    }

    pub(crate) fn urls(&self) -> [String; 2] {
        [self.proxy.url_for(&self.server), self.beside.url_for(&self.server)]
    }

    pub(crate) async fn stop_pooler(&mut self) -> anyhow::Result<()> {
        let old = self.bouncer.take();
        Ok(spawn_blocking(move || drop(old)).await?)
    }

    pub(crate) async fn start_pooler(&mut self) -> anyhow::Result<()> {
        if let Some(program) = &self.program {
            let new = bouncer(program, &self.server).await?;
            // At another port: only the proxies know.
            self.proxy.set_upstream(new.addr()).await?;
            self.beside.set_upstream(new.addr()).await?;
            self.bouncer = Some(new);
        }
        Ok(())
    }
}

async fn bouncer(program: &PgBouncerProgram, server: &Postgres) -> anyhow::Result<PgBouncer> {
    let mut bouncer = PgBouncer::builder(program, server.addr())
        .setting("default_pool_size", 12)
        // Without it the pool without a stack does not even connect.
        .setting("ignore_startup_parameters", "extra_float_digits");
    if program.version >= (1, 21) {
        bouncer = bouncer.setting("max_prepared_statements", 100);
    }
    Ok(bouncer.start().await?)
}

fn as_app(url: &str) -> String {
    url.replacen("postgres@", "app@", 1)
}

pub(crate) type Adversary = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct Adversaries {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Adversaries {
    fn begin(&mut self, work: impl FnOnce(watch::Receiver<bool>) -> Adversary) {
        self.stop.send_replace(false);
        self.tasks.spawn(work(self.stop.subscribe()));
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}
