//! The layer over nodes that charge each call their own time, on a clock that waits for nobody.

use crate::{
    cluster::Cluster, config::ReplicaConfig, layer::ReplicaLayer, member::Member, probe::Found, routed::Routed,
};
use db_core::{Call, Layer, Lsn, Observers, Operation, Result, Rows, Service, Statement, Target};
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

const MS: Duration = Duration::from_millis(1);
/// Calls that a node runs side by side.
const AT_ONCE: usize = 4;

/// A node of the model.
struct Charged {
    places: Semaphore,
    takes: Mutex<Duration>,
    calls: AtomicU64,
}

impl Charged {
    fn new(takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            places: Semaphore::new(AT_ONCE),
            takes: Mutex::new(takes),
            calls: AtomicU64::new(0),
        })
    }
}

impl<Op: Operation<Output = Rows> + ?Sized> Service<Op> for Charged {
    async fn call(&self, _: &Call, _: &Op) -> Result<Rows> {
        let place = self.places.acquire().await;
        let takes = *self.takes.lock();
        sleep(takes).await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        drop(place);
        Ok(Rows::default())
    }
}

struct Model {
    service: Routed<Arc<Charged>>,
    primary: Arc<Charged>,
    replicas: Vec<Arc<Charged>>,
}

/// A primary and two replicas that have everything.
fn model(takes: Duration) -> Model {
    fastrand::seed(7);
    let members: Vec<_> = (1..=3)
        .map(|port| Member::new(PgConnectOptions::new_without_pgpass().host("node").port(port)))
        .collect();
    let replicas: HashMap<Arc<str>, _> = members[1..]
        .iter()
        .map(|member| (member.name().clone(), Charged::new(takes)))
        .collect();
    let config = ReplicaConfig::default();
    let cluster = Cluster::unwatched(config, members.clone(), Observers::default()).unwrap();
    for (number, node) in cluster.shared.nodes.load().iter().enumerate() {
        let found = Found {
            standby: number > 0,
            fenced: false,
            system: 7,
            timeline: 1,
            lsn: Lsn(100),
            fork: None,
            own_lag: None,
        };
        cluster.shared.looked(node, Instant::now(), Ok(found));
    }
    let known = replicas.clone();
    // The primary's own stack for reads is never used: it is no replica.
    let connect = move |node: &Member| Ok(known.get(node.name()).cloned().unwrap_or_else(|| Charged::new(takes)));
    let primary = Charged::new(takes);
    Model {
        service: ReplicaLayer::new(cluster, 10, connect).layer(primary.clone()),
        primary,
        replicas: members[1..]
            .iter()
            .map(|member| replicas[member.name()].clone())
            .collect(),
    }
}

async fn read(service: &Routed<Arc<Charged>>, target: Target) {
    let mut call = Call::default();
    call.target = target;
    service.call(&call, &Statement::all("SELECT 1").unwrap()).await.unwrap();
}

/// Calls in `span` by callers who each ask again at once.
async fn calls(model: &Model, target: Target, span: Duration) -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..48 {
        let (service, stop) = (model.service.clone(), stop.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                read(&service, target).await;
            }
        });
    }
    let all = || -> u64 {
        let nodes = model.replicas.iter().chain([&model.primary]);
        nodes.map(|node| node.calls.load(Ordering::Relaxed)).sum()
    };
    let before = all();
    sleep(span).await;
    let after = all();
    stop.store(true, Ordering::Relaxed);
    while callers.join_next().await.is_some() {}
    after - before
}

#[tokio::test(start_paused = true)]
async fn two_replicas_read_as_much_as_two_nodes_can() {
    let model = model(5 * MS);
    let span = Duration::from_secs(10);
    let alone = calls(&model, Target::Primary, span).await;
    let both = calls(&model, Target::Any, span).await;
    let ratio = both as f64 / alone as f64;
    assert!(
        ratio >= 1.6,
        "{alone} calls on the primary, {both} on two replicas: {ratio:.2}"
    );
    let counts: Vec<_> = model
        .replicas
        .iter()
        .map(|node| node.calls.load(Ordering::Relaxed))
        .collect();
    let (least, most) = (counts[0].min(counts[1]), counts[0].max(counts[1]));
    assert!(least * 10 >= most * 7, "{counts:?}");
}

/// 800 reads a second, and what they took.
struct Paced {
    times: Arc<Mutex<Vec<Duration>>>,
    _callers: JoinSet<()>,
}

impl Paced {
    fn start(model: &Model) -> Self {
        let times = Arc::new(Mutex::new(Vec::new()));
        let mut callers = JoinSet::new();
        for _ in 0..16 {
            let (service, times) = (model.service.clone(), times.clone());
            callers.spawn(async move {
                sleep((20 * MS).mul_f64(fastrand::f64())).await;
                let mut ticks = interval(20 * MS);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                loop {
                    ticks.tick().await;
                    let since = Instant::now();
                    read(&service, Target::Any).await;
                    times.lock().push(since.elapsed());
                }
            });
        }
        Self {
            times,
            _callers: callers,
        }
    }

    /// The 99th percentile over ten seconds, and the share of the second replica.
    async fn watch(&self, model: &Model) -> (Duration, f64) {
        self.times.lock().clear();
        let on_second = || model.replicas[1].calls.load(Ordering::Relaxed);
        let before = on_second();
        sleep(Duration::from_secs(10)).await;
        let mut sorted = self.times.lock().clone();
        sorted.sort_unstable();
        let share = (on_second() - before) as f64 / sorted.len() as f64;
        (sorted[sorted.len() * 99 / 100], share)
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_becomes_ten_times_slower_is_left_alone() {
    let model = model(4 * MS);
    let load = Paced::start(&model);
    let (healthy, _) = load.watch(&model).await;
    *model.replicas[1].takes.lock() = 40 * MS;
    sleep(Duration::from_secs(1)).await;
    let (slowed, share) = load.watch(&model).await;
    assert!(share < 0.01, "{:.1} % of the reads", share * 100.0);
    assert!(slowed <= healthy.mul_f64(1.5), "{healthy:?}, then {slowed:?}");
    // It is not forgotten either.
    *model.replicas[1].takes.lock() = 4 * MS;
    sleep(Duration::from_secs(10)).await;
    let (_, share) = load.watch(&model).await;
    assert!(share > 0.3, "{:.1} % of the reads", share * 100.0);
}

#[tokio::test(start_paused = true)]
async fn hiccups_of_the_fast_replica_do_not_send_its_reads_to_the_slow_one() {
    let model = model(4 * MS);
    let load = Paced::start(&model);
    *model.replicas[1].takes.lock() = 40 * MS;
    sleep(Duration::from_secs(1)).await;
    let fast = model.replicas[0].clone();
    let hiccups = tokio::spawn(async move {
        loop {
            sleep(700 * MS).await;
            *fast.takes.lock() = 30 * MS;
            sleep(10 * MS).await;
            *fast.takes.lock() = 4 * MS;
        }
    });
    let (_, share) = load.watch(&model).await;
    hiccups.abort();
    assert!(share < 0.01, "{:.1} % of the reads", share * 100.0);
}
