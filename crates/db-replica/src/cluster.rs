//! The handle: the nodes, who is the primary, and positions as tokens.

use crate::{
    causality,
    config::ReplicaConfig,
    discover::{self, AnyError, Discover},
    member::Member,
    node::Node,
    shared::{Follow, Shared},
    stats::ClusterStats,
    watch,
};
use db_core::{
    CausalError, CausalSession, CausalToken, NodeId, Observers, Result,
    config::{Checks, InvalidConfig},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, task::AbortHandle, time::Instant};

/// The nodes of one database, watched. Cheap to clone; the watching ends with the last clone.
///
/// The watching starts with [`Cluster::start`], or with the first call of a layer, in its runtime.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    tasks: Arc<Tasks>,
}

/// The watching tasks, which end with the last handle.
pub(crate) struct Tasks {
    shared: Arc<Shared>,
    started: AtomicBool,
    /// More than one node, and not switched off.
    active: AtomicBool,
    running: Mutex<HashMap<NodeId, AbortHandle>>,
    /// Who names the nodes, and the task that asks.
    discovery: Mutex<(Option<Discover>, Option<AbortHandle>)>,
    stopped: AtomicBool,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Tasks {
    fn abort(&self) {
        {
            let mut running = self.running.lock();
            self.active.store(false, Ordering::Release);
            for (_, task) in running.drain() {
                task.abort();
            }
        }
        let (discover, task) = &mut *self.discovery.lock();
        *discover = None;
        if let Some(task) = task.take() {
            task.abort();
        }
    }

    /// Makes these the nodes.
    pub(crate) fn become_members(&self, members: Vec<Member>, renew: bool) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        self.shared.change(|nodes| {
            let known = std::mem::take(nodes);
            nodes.extend(distinct(members).into_iter().map(|member| {
                let same = known.iter().find(|node| node.member.name() == member.name());
                match same.filter(|_| !renew) {
                    Some(node) => node.clone(),
                    None => Arc::new(Node::new(member)),
                }
            }));
        });
        self.sync();
    }

    /// Asks who the nodes are, in the runtime of the caller.
    fn begin_discovery(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (discover, task) = &mut *self.discovery.lock();
        let Some(discover) = discover.clone().filter(|_| task.is_none()) else {
            return;
        };
        let asking = discover::keep(self.shared.clone(), Arc::downgrade(self), discover);
        *task = Some(runtime.spawn(asking).abort_handle());
    }

    fn has_discovery(&self) -> bool {
        self.discovery.lock().0.is_some()
    }

    /// One task for each node, and none for those that have gone.
    fn sync(&self) {
        // Before anything is read: whoever stops it takes this lock as well.
        let mut running = self.running.lock();
        let nodes = self.shared.nodes.load_full();
        let stopped = self.stopped.load(Ordering::Acquire);
        let active = nodes.len() > 1 && !stopped && !self.shared.config.load().mode.is_off();
        self.active.store(active, Ordering::Release);
        let Ok(runtime) = Handle::try_current() else { return };
        running.retain(|id, task| {
            let stays = active && !task.is_finished() && nodes.iter().any(|node| node.id == *id);
            if !stays {
                task.abort();
            }
            stays
        });
        if active {
            self.started.store(true, Ordering::Release);
            for node in nodes.iter() {
                running.entry(node.id).or_insert_with(|| {
                    runtime
                        .spawn(watch::watch(self.shared.clone(), node.clone()))
                        .abort_handle()
                });
            }
        }
    }
}

impl Cluster {
    /// The nodes; the first is taken for the primary until the roles are verified. `follow` is told whenever writes go to
    /// another node from then on.
    ///
    /// # Errors
    /// [`InvalidConfig`] names each key that is out of range.
    pub fn new(
        config: ReplicaConfig,
        members: Vec<Member>,
        observers: Observers,
        follow: impl Fn(&Member) + Send + Sync + 'static,
    ) -> Result<Self, InvalidConfig> {
        validate(&config)?;
        let nodes = distinct(members).into_iter().map(Node::new).map(Arc::new).collect();
        let follow: Follow = Arc::new(follow);
        let shared = Arc::new(Shared::new(config, observers, nodes, follow));
        let tasks = Arc::new(Tasks {
            shared: shared.clone(),
            started: AtomicBool::new(false),
            active: AtomicBool::new(false),
            running: Mutex::default(),
            discovery: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        tasks.active.store(
            shared.nodes.load().len() > 1 && !shared.config.load().mode.is_off(),
            Ordering::Release,
        );
        Ok(Self { shared, tasks })
    }

    /// Nodes that nobody looks at but the test.
    #[cfg(test)]
    pub(crate) fn unwatched(
        config: ReplicaConfig,
        members: Vec<Member>,
        observers: Observers,
    ) -> Result<Self, InvalidConfig> {
        let cluster = Self::new(config, members, observers, |_| {})?;
        cluster.tasks.started.store(true, Ordering::Release);
        Ok(cluster)
    }

    /// Whether there is anything to route: more than one node, and not switched off.
    pub fn is_active(&self) -> bool {
        self.tasks.active.load(Ordering::Acquire)
    }

    /// Starts watching, in the runtime of the caller; without one, nothing happens yet.
    pub fn start(&self) {
        if self.is_active() && !self.tasks.started.load(Ordering::Acquire) {
            self.tasks.sync();
        }
    }

    /// Starts watching and waits until each node has been looked at once. `false` at the limit. Cancel-safe.
    pub async fn ready(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        if self.tasks.has_discovery() {
            self.tasks.begin_discovery();
            let shared = &self.shared;
            if shared
                .until(until, || shared.is_discovered().then_some(()))
                .await
                .is_none()
            {
                return false;
            }
        }
        self.start();
        if !self.is_active() {
            return true;
        }
        let nodes = self.shared.nodes.load_full();
        let looked = || nodes.iter().all(|node| node.view.lock().looks > 0).then_some(());
        self.shared.until(until, looked).await.is_some()
    }

    /// Ends the watching: nothing is routed any more, and all calls go to the primary of that moment.
    pub fn stop(&self) {
        self.tasks.stopped.store(true, Ordering::Release);
        self.tasks.abort();
    }

    /// Asks `discover` who the nodes are: now, every [`ReplicaConfig::discovery_interval`], and when the primary is lost.
    /// Its answer takes the place of all nodes that there are; those whose names it repeats stay as they are. An error or
    /// an empty list changes nothing. Outside of a runtime it begins with [`Cluster::ready`].
    pub fn discover<F, E>(&self, discover: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Vec<Member>, E>> + Send + 'static,
        E: Into<AnyError>,
    {
        {
            let (who, task) = &mut *self.tasks.discovery.lock();
            *who = Some(discover::boxed(discover));
            if let Some(task) = task.take() {
                task.abort();
            }
        }
        self.tasks.begin_discovery();
    }

    /// Swaps the settings; nodes stay.
    ///
    /// # Errors
    /// [`InvalidConfig`]; the settings in force stay.
    pub fn reload(&self, config: ReplicaConfig) -> Result<(), InvalidConfig> {
        validate(&config)?;
        self.shared.config.store(Arc::new(config));
        self.tasks.sync();
        Ok(())
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<ReplicaConfig> {
        self.shared.config.load_full()
    }

    /// Adds a node; one of the same name is replaced, for example to give it another password.
    pub fn add(&self, member: Member) {
        self.shared.change(|nodes| {
            nodes.retain(|node| node.member.name() != member.name());
            nodes.push(Arc::new(Node::new(member)));
        });
        self.tasks.sync();
    }

    /// Removes a node by its name; `false` when there is none, or no other one. Reads that run on it end there. When writes
    /// went to it, none go out until it is known where to.
    pub fn remove(&self, name: &str) -> bool {
        let mut removed = false;
        self.shared.change(|nodes| {
            let before = nodes.len();
            nodes.retain(|node| &**node.member.name() != name);
            removed = nodes.len() < before && !nodes.is_empty();
        });
        self.tasks.sync();
        removed
    }

    /// Makes these the nodes: those whose names are known already stay as they are, unless `renew`. None at all changes
    /// nothing.
    pub fn set_members(&self, members: Vec<Member>, renew: bool) {
        self.tasks.become_members(members, renew);
    }

    /// The nodes that there are.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.shared.nodes.load();
        nodes.iter().map(|node| node.member.clone()).collect()
    }

    /// The node that writes go to.
    pub fn primary(&self) -> Option<Member> {
        Some(self.shared.primary()?.member.clone())
    }

    /// Counts the moves of the primary.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch()
    }

    /// Asks every node now: for whoever has found out that something has changed.
    pub fn look_again(&self) {
        self.shared.nudge_all();
    }

    /// What this session has seen, as a value for another process: the position is read from the primary where it is not
    /// known yet. `None` for a session that has seen nothing.
    ///
    /// # Errors
    /// [`CausalError::NoPosition`] when no primary answers within
    /// [`ReplicaConfig::probe_timeout`]. Cancel-safe.
    pub async fn token(&self, session: &CausalSession) -> Result<Option<CausalToken>> {
        self.start();
        let limit = Instant::now() + self.shared.config.load().probe_timeout;
        causality::token(&self.shared, session, limit).await
    }

    /// A moment before which everything that the token has seen was committed, by what is known without asking anybody:
    /// for whoever compares it with the age of an answer. `None` when nothing is known.
    ///
    /// # Errors
    /// [`CausalError`] when the token can't be honoured, by what is known so far.
    pub fn passed(&self, token: CausalToken) -> Result<Option<Instant>, CausalError> {
        self.shared.passed(token)
    }

    /// The nodes as they were when they were last looked at, and what has been counted.
    pub fn stats(&self) -> ClusterStats {
        ClusterStats::of(&self.shared)
    }
}

fn validate(config: &ReplicaConfig) -> Result<(), InvalidConfig> {
    let mut checks = Checks::default();
    config.validate("replica", &mut checks);
    checks.finish()
}

/// The first of each name.
fn distinct(members: Vec<Member>) -> Vec<Member> {
    let mut distinct: Vec<Member> = Vec::with_capacity(members.len());
    for member in members {
        if !distinct.iter().any(|known| known.name() == member.name()) {
            distinct.push(member);
        }
    }
    distinct
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
