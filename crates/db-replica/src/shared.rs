//! What the handles and the watching tasks share.

use crate::{
    config::ReplicaConfig,
    head::{Changes, Head, Writes},
    member::Member,
    node::Node,
    probe::{Found, Glimpse},
    standing::{Look, Standing},
    watch::Silence,
};
use arc_swap::ArcSwap;
use db_core::{CausalError, CausalToken, Error, Event, NodeId, Observers, Part};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// Is told where writes go from now on: points the pool of the primary to another node.
pub(crate) type Follow = Arc<dyn Fn(&Member) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) config: ArcSwap<ReplicaConfig>,
    pub(crate) observers: Observers,
    /// The first is the one that was configured as the primary.
    pub(crate) nodes: ArcSwap<Vec<Arc<Node>>>,
    /// Counts the changes of `nodes`.
    pub(crate) generation: AtomicU64,
    pub(crate) head: Mutex<Head>,
    /// Whether writes may go out: `head.writes`, without the lock.
    pub(crate) open: AtomicBool,
    pub(crate) follow: Follow,
    /// Asks for the nodes anew.
    pub(crate) rediscover: Notify,
    /// They have been found out once.
    found_out: AtomicBool,
    /// Told after every look.
    progress: watch::Sender<u64>,
    /// Reads that wait for a replica to replay something.
    waiting: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(config: ReplicaConfig, observers: Observers, nodes: Vec<Arc<Node>>, follow: Follow) -> Self {
        let head = Head::new(nodes.first().map(|node| node.id));
        Self {
            config: ArcSwap::from_pointee(config),
            observers,
            nodes: ArcSwap::from_pointee(nodes),
            generation: AtomicU64::new(0),
            head: Mutex::new(head),
            open: AtomicBool::new(true),
            follow,
            rediscover: Notify::new(),
            found_out: AtomicBool::new(false),
            progress: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.nodes.load().iter().find(|node| node.id == id).cloned()
    }

    pub(crate) fn primary(&self) -> Option<Arc<Node>> {
        let id = self.head.lock().primary?;
        self.node(id)
    }

    /// Whether writes may go out.
    pub(crate) fn may_write(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// No primary is known.
    pub(crate) fn searching(&self) -> bool {
        !self.may_write()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.head.lock().epoch
    }

    /// The nodes have been found out.
    pub(crate) fn discovered(&self) {
        self.found_out.store(true, Ordering::Release);
        self.tell_progress();
    }

    pub(crate) fn is_discovered(&self) -> bool {
        self.found_out.load(Ordering::Acquire)
    }

    /// The pause before the next look when nobody waits.
    pub(crate) fn pace(&self) -> Duration {
        let config = self.config.load();
        let pace = if self.searching() {
            config.search_interval
        } else {
            config.poll_interval
        };
        pace.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Whether a read waits for this node to replay something.
    pub(crate) fn is_awaited(&self, node: &Node) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && node.serves()
    }

    /// The answer to a short question; `false` when the node has changed its role.
    pub(crate) fn glanced(&self, node: &Node, at: Instant, glimpse: Glimpse) -> bool {
        {
            let mut head = self.head.lock();
            let known = node.view.lock().found;
            if known.is_none_or(|known| known.standby != glimpse.standby) {
                return false;
            }
            if head.primary == Some(node.id) && head.writes == Writes::Open && !glimpse.standby {
                head.trail.push(at, glimpse.lsn);
            }
        }
        node.moved_to(at, glimpse.lsn);
        // Whoever waits for this node's answer must hear of it: a read, or a session that asks for its token.
        self.tell_progress();
        true
    }

    /// The answer to a look, or its lack.
    pub(crate) fn looked(&self, node: &Node, at: Instant, looked: Result<Found, Silence>) {
        let (changes, standing) = {
            let mut head = self.head.lock();
            let before = self.note(&mut head, node, at, looked);
            let changes = self.assess(&mut head);
            // The primary's own look is the first sample of its trail.
            let view = node.view.lock();
            if let (Writes::Open, Some(id), Some(found)) = (head.writes, head.primary, view.writable())
                && id == node.id
            {
                head.trail.push(at, found.lsn);
            }
            (changes, (before, view.standing))
        };
        node.suspect.store(false, Ordering::Relaxed);
        self.tell(changes);
        self.tell_standing(node, standing);
        self.tell_progress();
    }

    /// Writes the answer into the node's view; returns the standing of before.
    fn note(&self, head: &mut Head, node: &Node, at: Instant, looked: Result<Found, Silence>) -> Standing {
        let now = Instant::now();
        let config = self.config.load();
        let mut view = node.view.lock();
        view.looks += 1;
        view.looked = Some(at);
        let look = match looked {
            Err(silence) => {
                view.silent = view.silent.saturating_add(1);
                view.gone = silence.gone;
                view.error = Some(silence.message);
                Look::Unreachable
            }
            Ok(found) => {
                view.silent = 0;
                view.gone = false;
                view.error = None;
                view.found = Some(found);
                view.at = Some(at);
                let system = *head.system.get_or_insert(found.system);
                if system != found.system {
                    Look::Stranger
                } else {
                    head.learn(found.timeline, found.fork, now);
                    if found.standby {
                        let (lag, bytes) = head.lag(found.timeline, found.lsn, found.own_lag, now);
                        (view.lag, view.lag_bytes) = (Some(lag), bytes);
                        Look::Standby {
                            lag,
                            bytes: bytes.unwrap_or_default(),
                        }
                    } else {
                        (view.lag, view.lag_bytes) = (None, None);
                        Look::Writable
                    }
                }
            }
        };
        let standing = view.standing.after(look, &config);
        node.set_standing(&mut view, standing)
    }

    fn assess(&self, head: &mut Head) -> Changes {
        let nodes = self.nodes.load();
        let views: Vec<_> = nodes.iter().map(|node| (node.id, node.view.lock().clone())).collect();
        let changes = head.assess(views.iter().map(|(id, view)| (*id, view)));
        self.open.store(head.writes.allowed(), Ordering::Release);
        changes
    }

    fn tell(&self, changes: Changes) {
        if let Some(node) = changes.moved.and_then(|id| self.node(id)) {
            if self.config.load().mode.enforces() {
                (self.follow)(&node.member);
            }
            let timeline = self.head.lock().timeline;
            tracing::info!(node = %node.member.name(), timeline, "writes go to another node");
            self.observers.tell(|| Event::PrimaryMoved {
                node: node.name(),
                timeline,
            });
        }
        if let Some(node) = changes.lost.and_then(|id| self.node(id)) {
            tracing::warn!(node = %node.member.name(), "the primary is lost");
            self.observers.tell(|| Event::PrimaryLost { node: node.name() });
            // Whoever else may be it is asked at once.
            self.nudge_all();
            self.rediscover.notify_one();
        }
        if let Some(nodes) = changes.writable {
            self.observers.tell(|| Event::WritableNodes { nodes });
        }
        if changes.split {
            let (nodes, timeline) = {
                let head = self.head.lock();
                (head.writable, head.timeline)
            };
            tracing::error!(
                nodes,
                timeline,
                "several nodes take writes: only the highest timeline gets any"
            );
            self.observers.tell(|| Event::SplitBrain { nodes, timeline });
        }
    }

    fn tell_standing(&self, node: &Node, (before, now): (Standing, Standing)) {
        match (before, now) {
            (Standing::Banned { reason: old, .. }, Standing::Banned { reason, .. }) if old == reason => {}
            (_, Standing::Banned { reason, .. }) => self.observers.tell(|| Event::NodeBanned {
                node: node.name(),
                reason,
            }),
            (Standing::Serving, Standing::Serving) => {}
            (_, Standing::Serving) => self.observers.tell(|| Event::NodeServes { node: node.name() }),
            _ => {}
        }
    }

    pub(crate) fn tell_progress(&self) {
        self.progress.send_modify(|looks| *looks = looks.wrapping_add(1));
    }

    pub(crate) fn nudge_all(&self) {
        for node in self.nodes.load().iter() {
            node.nudge.notify_one();
        }
    }

    /// Waits until `look` finds something, asking after every answer of a node. `None` at the limit.
    pub(crate) async fn until<T>(&self, limit: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut progress = self.progress.subscribe();
        let mut noted = None;
        loop {
            progress.borrow_and_update();
            if let Some(found) = look() {
                return Some(found);
            }
            noted.get_or_insert_with(|| db_core::Waiting::on(Part::Replica));
            if !matches!(timeout_at(limit, progress.changed()).await, Ok(Ok(()))) {
                return None;
            }
        }
    }

    /// A position that covers everything committed before `since`: a known one, or one that the primary is asked for.
    pub(crate) async fn position_after(&self, since: Instant, limit: Instant) -> Option<CausalToken> {
        let known = || self.head.lock().covering(since);
        if let Some(token) = known() {
            return Some(token);
        }
        if !self.may_write() {
            return None;
        }
        self.primary()?.nudge.notify_one();
        self.until(limit, known).await
    }

    /// A position that covers what a read on `node` showed that ended at `at`: what the node has replayed since, or where
    /// the primary is since, whichever of the two answers first.
    pub(crate) async fn shown_after(&self, node: Option<&Node>, at: Instant, limit: Instant) -> Option<CausalToken> {
        let known = || {
            let replayed = node.and_then(|node| node.replayed_since(at));
            replayed.or_else(|| self.head.lock().covering(at))
        };
        if let Some(token) = known() {
            return Some(token);
        }
        if let Some(node) = node {
            node.nudge.notify_one();
        }
        if let Some(primary) = self.primary() {
            primary.nudge.notify_one();
        }
        self.until(limit, known).await
    }

    /// When the primary was known to be beyond what the token has seen: whoever reads what was committed before that
    /// moment sees it. `None` when it is not known to be beyond.
    pub(crate) fn passed(&self, token: CausalToken) -> Result<Option<Instant>, CausalError> {
        let head = self.head.lock();
        head.check(token)?;
        Ok(match token.timeline == head.timeline {
            true => head.trail.beyond(token.lsn),
            // Taken over by a promotion: it was there when the new timeline began.
            false => head.timeline_since,
        })
    }

    /// Waits until `pick` finds a replica, looking closely meanwhile.
    pub(crate) async fn until_replayed<T>(&self, limit: Instant, pick: impl FnMut() -> Option<T>) -> Option<T> {
        let waiting = Waiting::new(&self.waiting);
        for node in self.nodes.load().iter().filter(|node| node.serves()) {
            node.nudge.notify_one();
        }
        let found = self.until(limit, pick).await;
        drop(waiting);
        found
    }

    /// Finds out what a failure on the primary means: asks all nodes now, and waits (`limit`) for the answers where the
    /// error says that the node is not the primary, so that another try finds the right one.
    pub(crate) async fn primary_failed(&self, error: &Error, limit: Duration) {
        let since = Instant::now();
        let wrong_node = error.sqlstate().is_some_and(|state| state.is_wrong_node());
        if !wrong_node && !is_fault(error) {
            return;
        }
        self.nudge_all();
        if wrong_node {
            let nodes = self.nodes.load_full();
            let all_looked = || {
                let fresh = nodes.iter().all(|node| node.view.lock().looked >= Some(since));
                fresh.then_some(())
            };
            self.until(since + limit, all_looked).await;
        }
    }
}

/// Whether the error is the node's fault and not the statement's.
pub(crate) fn is_fault(error: &Error) -> bool {
    use db_core::AcquireFailure as F;
    match error {
        Error::Network { .. } => true,
        Error::Acquire(acquire) => matches!(acquire.failure, F::Down | F::TooManyConnections | F::Refused),
        Error::Server(server) => server.is_fatal() || server.state().is_shutdown(),
        // sqlx's own pool says so of a server that is down as well.
        Error::Client(sqlx::Error::PoolTimedOut) => true,
        _ => false,
    }
}

/// Counts a read that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
