//! A primary, replicas, and the layer over plain sqlx pools.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Call, CausalSession, Layer, Observers, Result, Rows, Run, Service, Statement};
use db_replica::{Cluster, Member, ReplicaConfig, ReplicaLayer, Routed};
use db_testkit::Postgres;
use sqlx::{
    AssertSqlSafe, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// The bound of everything that should happen soon, generous for a machine that does other things as well.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) type Stack = Routed<Run<PgPool>>;

pub(crate) fn pool(options: &PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(5)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(options.clone())
}

/// The layer over these servers, the first of which is taken for the primary.
pub(crate) fn stack(config: ReplicaConfig, servers: &[&Postgres]) -> Stack {
    let members: Vec<Member> = servers.iter().map(|server| Member::new(server.options())).collect();
    let writer = pool(members[0].options());
    let moving = writer.clone();
    let follow = move |to: &Member| {
        moving.set_connect_options(to.options().clone());
        // What is open leads to the node of before.
        let moving = moving.clone();
        tokio::spawn(async move {
            while let Some(conn) = moving.try_acquire() {
                drop(conn.detach());
            }
        });
    };
    let cluster = Cluster::new(config, members, Observers::default(), follow).unwrap();
    let layer = ReplicaLayer::new(cluster, 5, |node: &Member| Ok(Run(pool(node.options()))));
    layer.layer(Run(writer))
}

/// Looks often, so that tests are short.
pub(crate) fn config() -> ReplicaConfig {
    ReplicaConfig {
        poll_interval: 100 * MS,
        search_interval: 20 * MS,
        ..ReplicaConfig::default()
    }
}

/// A primary with a table `t (id int, n bigint)`, and replicas that have it.
pub(crate) async fn servers(replicas: usize) -> (Postgres, Vec<Postgres>) {
    let primary = Postgres::start().await.unwrap();
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE t (id int PRIMARY KEY, n bigint); INSERT INTO t SELECT g, 0 FROM generate_series(1, 64) g",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    let mut all = Vec::new();
    for _ in 0..replicas {
        let replica = primary.replica().await.unwrap();
        replica.wait_caught_up(&primary, SOON).await.unwrap();
        all.push(replica);
    }
    (primary, all)
}

pub(crate) fn session() -> Call {
    with_session(CausalSession::default())
}

pub(crate) fn with_session(session: CausalSession) -> Call {
    let mut call = Call::here();
    call.session = Some(Arc::new(session));
    call
}

pub(crate) async fn run(stack: &Stack, call: &Call, sql: String) -> Result<Rows> {
    let call = call.clone().with_deadline(Instant::now() + SOON);
    stack
        .call(&call, &Statement::all(sqlx::raw_sql(AssertSqlSafe(sql)))?)
        .await
}

/// Sets row `id` to `n`.
pub(crate) async fn write(stack: &Stack, call: &Call, id: i32, n: i64) -> Result<()> {
    run(stack, call, format!("UPDATE t SET n = {n} WHERE id = {id}"))
        .await
        .map(drop)
}

/// Row `id`.
pub(crate) async fn read(stack: &Stack, call: &Call, id: i32) -> Result<i64> {
    let rows = run(stack, call, format!("SELECT n FROM t WHERE id = {id}")).await?;
    Ok(rows.rows[0].try_get(0)?)
}

/// The port of the server that answers a read.
pub(crate) async fn port(stack: &Stack, call: &Call) -> Result<i32> {
    let rows = run(stack, call, "SELECT inet_server_port()".to_owned()).await?;
    Ok(rows.rows[0].try_get(0)?)
}

/// Polls until `done` says so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !done().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(5 * MS).await;
    }
}
