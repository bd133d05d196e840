//! The replica of the workload: how far it is behind changes all the time.

use std::time::Duration;

use anyhow::Context;
use db_stack::Db;
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

const LONGEST: u64 = 3_000;
/// How long it stays as far behind as it is.
const STAYS: Duration = Duration::from_millis(700);
const SAMPLE: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(20);

/// A replica that has what the primary has, known to the database.
pub(crate) async fn join(server: &Postgres, db: &Db) -> anyhow::Result<Postgres> {
    let replica = server.replica().await.context("no replica")?;
    replica.wait_caught_up(server, SOON).await?;
    db.add_node(&replica.url())?;
    anyhow::ensure!(db.nodes_ready(SOON).await, "the replica does not answer");
    Ok(replica)
}

/// Lets it fall behind by up to three seconds and catch up, until the end. Returns how far the stack has seen it behind at
/// most, and the replica, which calls that are under way still need.
pub(crate) async fn swing(
    replica: Postgres,
    db: Db,
    mut ended: watch::Receiver<bool>,
) -> anyhow::Result<(Postgres, Duration)> {
    let (mut calm, mut longest) = (false, Duration::ZERO);
    let mut changed = Instant::now();
    loop {
        tokio::select! {
            _ = ended.wait_for(|end| *end) => break,
            () = sleep(SAMPLE) => {}
        }
        let nodes = db.replicas().cluster.nodes;
        longest = nodes.iter().filter_map(|node| node.lag).fold(longest, Duration::max);
        if changed.elapsed() >= STAYS {
            changed = Instant::now();
            calm = !calm;
            let delay = if calm { 0 } else { fastrand::u64(..LONGEST) };
            replica.set_apply_delay(Duration::from_millis(delay)).await?;
        }
    }
    replica.set_apply_delay(Duration::ZERO).await?;
    Ok((replica, longest))
}
