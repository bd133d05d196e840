//! Nodes that charge each call their own service time: what two replicas add, on a machine that has no processors for
//! three servers. The nodes are watched on real servers; only the calls are a model.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use db_core::{Call, Layer, Observers, Operation, Result, Service, Statement, Target};
use db_replica::{Cluster, Member, ReplicaConfig, ReplicaLayer, Routed};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use super::{SOON, servers};
use crate::prove::findings::Findings;

/// Each node runs so many calls at once, and each takes so long: 800 calls a second.
const AT_ONCE: usize = 4;
const TAKES: Duration = Duration::from_millis(5);
const CALLERS: usize = 48;
const PROMISED: f64 = 1.6;

/// A node of the model.
struct Charged {
    places: Semaphore,
    calls: AtomicU64,
}

impl Charged {
    fn new() -> Self {
        Self {
            places: Semaphore::new(AT_ONCE),
            calls: AtomicU64::new(0),
        }
    }
}

impl<Op: Operation<Output = db_core::Rows> + ?Sized> Service<Op> for Charged {
    async fn call(&self, _: &Call, _: &Op) -> Result<Op::Output> {
        let place = self.places.acquire().await;
        sleep(TAKES).await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        drop(place);
        Ok(db_core::Rows::default())
    }
}

/// Reads per second from the primary alone, and from two replicas.
pub(super) async fn capacity(findings: &mut Findings, quick: bool) -> anyhow::Result<()> {
    let (rounds, span) = match quick {
        true => (3, Duration::from_millis(400)),
        false => (10, Duration::from_secs(1)),
    };
    let (primary, replicas) = servers().await?;
    let members = [&primary, &replicas[0], &replicas[1]].map(|server| Member::new(server.options()));
    let cluster = Cluster::new(ReplicaConfig::default(), members.to_vec(), Observers::default(), |_| {})?;
    let layer = ReplicaLayer::new(cluster, 10, |_: &Member| Ok(Arc::new(Charged::new())));
    let service = layer.layer(Arc::new(Charged::new()));
    ensure!(service.cluster().ready(SOON).await, "the nodes do not answer");
    let before = service.stats();
    // In turns, so that both see the same machine.
    let (mut alone, mut both) = (0.0, 0.0);
    for _ in 0..rounds {
        alone += rate(&service, Target::Primary, span).await? / f64::from(rounds);
        both += rate(&service, Target::Any, span).await? / f64::from(rounds);
    }
    let after = service.stats();
    let by_node: Vec<_> = after
        .cluster
        .nodes
        .iter()
        .zip(&before.cluster.nodes)
        .map(|(a, b)| a.reads - b.reads)
        .collect();
    println!(
        "model of {AT_ONCE} calls at once and {} ms each: {alone:.0} reads/s on the primary, {both:.0} on two replicas, by node {by_node:?}",
        TAKES.as_millis()
    );
    findings.expect(
        "read capacity of two replicas, times the primary's",
        format!("{:.2}", both / alone),
        format!("at least {PROMISED}"),
        both / alone >= PROMISED,
    );
    let (least, most) = (by_node[1].min(by_node[2]), by_node[1].max(by_node[2]));
    findings.note("reads on the one replica and the other", format!("{least} and {most}"));
    Ok(())
}

async fn rate(service: &Routed<Arc<Charged>>, target: Target, span: Duration) -> anyhow::Result<f64> {
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (service, stopped) = (service.clone(), stopped.clone());
        callers.spawn(async move {
            let mut call = Call::default();
            call.target = target;
            let read = Statement::all("SELECT 1")?;
            let mut calls = 0_u64;
            while !*stopped.borrow() {
                service.call(&call, &read).await?;
                calls += 1;
            }
            Ok::<_, db_core::Error>(calls)
        });
    }
    sleep(span).await;
    stop.send_replace(true);
    let mut calls = 0;
    while let Some(done) = callers.join_next().await {
        calls += done?.context("a call of the model failed")?;
    }
    Ok(calls as f64 / span.as_secs_f64())
}
