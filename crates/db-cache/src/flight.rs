//! One read per key at a time, shared by all who want its answer.

use crate::{
    entry::Entry,
    key::Key,
    versions::{AsIs, Snapshot, Versions},
};
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, sync::Arc};
use tokio::{sync::Notify, time::Instant};

const SHARDS: usize = 16;

/// The reads under way. Never more than there are callers.
pub(crate) struct Flights {
    shards: [Mutex<HashMap<Key, Arc<Flight>, AsIs>>; SHARDS],
}

pub(crate) struct Flight {
    state: Mutex<State>,
    turn: Notify,
}

struct State {
    phase: Phase,
    snapshot: Arc<Snapshot>,
    /// What the read must show: everything that was committed before.
    since: Instant,
    waiters: usize,
}

enum Phase {
    /// Somebody reads.
    Led,
    /// Whoever read is gone: the next one who looks reads on.
    Vacant,
    /// There is an answer.
    Landed(Arc<Entry>),
    /// It failed in a way that is every caller's own to find out.
    Failed,
}

/// What a caller is to do.
pub(crate) enum Role {
    /// To read.
    Lead(Leading),
    /// To wait for the one who reads.
    Wait(Waiting),
}

/// What waiting came to.
pub(crate) enum Landing {
    Entry(Arc<Entry>),
    /// The one who read is gone: this caller reads on, for all who wait.
    Lead(Leading),
    /// Every caller for itself.
    Alone,
}

/// The duty to read for all who wait. Dropped without an end, it passes on.
pub(crate) struct Leading {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
    snapshot: Arc<Snapshot>,
    since: Instant,
    ended: bool,
}

/// A place among those who wait.
pub(crate) struct Waiting {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
}

impl Flights {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Joins the read of this key, or begins one. A read that began before something it reads was written, or that
    /// need not show what the caller must see (`needs`), is not joined: the caller's own write could be missing in it.
    /// One that begins here has to show what was committed before `since`, and before the latest write of what it reads.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: Key,
        needs: Option<Instant>,
        since: Instant,
        versions: &Versions,
        snapshot: impl FnOnce() -> Snapshot,
    ) -> Role {
        let mut shard = self.shard(key).lock();
        if let Some(flight) = shard.get(&key) {
            let flight = Arc::clone(flight);
            let mut state = flight.state.lock();
            match state.phase {
                Phase::Led
                    if versions.is_current(&state.snapshot) && needs.is_none_or(|needs| state.since >= needs) =>
                {
                    state.waiters += 1;
                    drop(state);
                    return Role::Wait(Waiting {
                        flights: Arc::clone(self),
                        key,
                        flight,
                    });
                }
                Phase::Vacant => {
                    let snapshot = Arc::new(snapshot());
                    let since = state.lead(&snapshot, since);
                    drop(state);
                    return Role::Lead(self.leading(key, flight, snapshot, since));
                }
                _ => {}
            }
        }
        let snapshot = Arc::new(snapshot());
        let since = shows(since, &snapshot);
        let flight = Arc::new(Flight {
            state: Mutex::new(State {
                phase: Phase::Led,
                snapshot: Arc::clone(&snapshot),
                since,
                waiters: 0,
            }),
            turn: Notify::new(),
        });
        shard.insert(key, Arc::clone(&flight));
        Role::Lead(self.leading(key, flight, snapshot, since))
    }

    /// Begins a read unless one is under way.
    pub(crate) fn try_lead(
        self: &Arc<Self>,
        key: Key,
        since: Instant,
        versions: &Versions,
        snapshot: Snapshot,
    ) -> Option<Leading> {
        if self.shard(key).lock().contains_key(&key) {
            return None;
        }
        match self.join(key, None, since, versions, || snapshot) {
            Role::Lead(leading) => Some(leading),
            Role::Wait(_) => None,
        }
    }

    fn leading(self: &Arc<Self>, key: Key, flight: Arc<Flight>, snapshot: Arc<Snapshot>, since: Instant) -> Leading {
        Leading {
            flights: Arc::clone(self),
            key,
            flight,
            snapshot,
            since,
            ended: false,
        }
    }

    fn shard(&self, key: Key) -> &Mutex<HashMap<Key, Arc<Flight>, AsIs>> {
        &self.shards[(key.get() >> 64) as usize % SHARDS]
    }

    /// Takes a flight out of the list, unless another one has taken its place.
    fn remove(&self, key: Key, flight: &Arc<Flight>) {
        let mut shard = self.shard(key).lock();
        if shard.get(&key).is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
            shard.remove(&key);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// What a read has to show that begins now. Never the future: a doubt that lasts keeps its answer out of memory, and
/// nobody who has seen something since may join it.
fn shows(since: Instant, snapshot: &Snapshot) -> Instant {
    since.max(snapshot.written()).min(Instant::now())
}

impl State {
    /// Returns what the read must show.
    fn lead(&mut self, snapshot: &Arc<Snapshot>, since: Instant) -> Instant {
        self.phase = Phase::Led;
        self.snapshot = Arc::clone(snapshot);
        self.since = shows(since, snapshot);
        self.since
    }
}

impl Leading {
    /// Where the counters stood when this read began.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// This read must show everything that was committed before.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Gives the answer to all who wait.
    pub(crate) fn land(self, entry: &Arc<Entry>) {
        self.end(Phase::Landed(Arc::clone(entry)));
    }

    /// Lets all who wait find out for themselves.
    pub(crate) fn fail(self) {
        self.end(Phase::Failed);
    }

    fn end(mut self, phase: Phase) {
        self.ended = true;
        self.flights.remove(self.key, &self.flight);
        self.flight.state.lock().phase = phase;
        self.flight.turn.notify_waiters();
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let nobody = {
            let mut state = self.flight.state.lock();
            state.phase = Phase::Vacant;
            state.waiters == 0
        };
        if nobody {
            // A caller who joins just now finds it vacant and reads on; it then puts it on the list again or not, either
            // way it is answered.
            self.flights.remove(self.key, &self.flight);
        } else {
            self.flight.turn.notify_one();
        }
    }
}

impl Waiting {
    /// Waits for the answer. Cancel-safe: a dropped wait passes its turn on.
    /// Whoever reads on has to show what was committed before `since`.
    pub(crate) async fn landing(self, since: Instant, snapshot: impl Fn() -> Snapshot) -> Landing {
        loop {
            let mut turn = std::pin::pin!(self.flight.turn.notified());
            // Before looking, so that no call in between is missed.
            turn.as_mut().enable();
            {
                let mut state = self.flight.state.lock();
                match &state.phase {
                    Phase::Led => {}
                    Phase::Vacant => {
                        let snapshot = Arc::new(snapshot());
                        let since = state.lead(&snapshot, since);
                        drop(state);
                        let flight = Arc::clone(&self.flight);
                        return Landing::Lead(self.flights.leading(self.key, flight, snapshot, since));
                    }
                    Phase::Landed(entry) => return Landing::Entry(Arc::clone(entry)),
                    Phase::Failed => return Landing::Alone,
                }
            }
            turn.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let last = {
            let mut state = self.flight.state.lock();
            state.waiters -= 1;
            state.waiters == 0 && matches!(state.phase, Phase::Vacant)
        };
        if last {
            self.flights.remove(self.key, &self.flight);
        }
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{books::Book, key::KeySeed, versions::Place};
    use std::time::Duration;
    use tokio::time::Instant;

    fn entry(snapshot: &Arc<Snapshot>) -> Arc<Entry> {
        Arc::new(Entry {
            value: Some(Arc::new(7)),
            snapshot: Arc::clone(snapshot),
            born: Instant::now(),
            shows: Instant::now(),
            fresh_for: Duration::ZERO,
            stale_for: Duration::ZERO,
            read: Instant::now(),
            watched: false,
            weight: 1,
            book: Arc::new(Book::default()),
        })
    }

    struct Rig {
        flights: Arc<Flights>,
        versions: Arc<Versions>,
        key: Key,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                flights: Flights::new(),
                versions: Arc::new(Versions::new()),
                key: KeySeed::random(&[]).key().finish(&1),
            }
        }

        fn join(&self, needs: Option<Instant>) -> Role {
            let snapshot = || self.versions.snapshot(&[Place::table(1)]);
            self.flights
                .join(self.key, needs, Instant::now(), &self.versions, snapshot)
        }

        fn lead(&self) -> Leading {
            match self.join(None) {
                Role::Lead(leading) => leading,
                Role::Wait(_) => panic!("somebody reads already"),
            }
        }

        fn wait(&self) -> tokio::task::JoinHandle<Landing> {
            let Role::Wait(waiting) = self.join(None) else {
                panic!("nobody reads")
            };
            let versions = Arc::clone(&self.versions);
            tokio::spawn(async move {
                let snapshot = || versions.snapshot(&[Place::table(1)]);
                waiting.landing(Instant::now(), snapshot).await
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leaves_hands_over_to_one_and_all_are_answered() {
        let rig = Rig::new();
        let leader = rig.lead();
        let waiting = [rig.wait(), rig.wait(), rig.wait()];
        tokio::task::yield_now().await;
        drop(leader);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (done, still): (Vec<_>, Vec<_>) = waiting.into_iter().partition(tokio::task::JoinHandle::is_finished);
        assert_eq!((done.len(), still.len()), (1, 2));
        for task in done {
            let Landing::Lead(leading) = task.await.unwrap() else {
                panic!("it was to read on")
            };
            let answer = entry(leading.snapshot());
            leading.land(&answer);
        }
        for task in still {
            assert!(matches!(task.await.unwrap(), Landing::Entry(_)));
        }
        assert_eq!(rig.flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_not_taken_passes_on() {
        let rig = Rig::new();
        let leader = rig.lead();
        let (first, second) = (rig.wait(), rig.wait());
        tokio::task::yield_now().await;
        drop(leader);
        first.abort();
        let Landing::Lead(leading) = second.await.unwrap() else {
            panic!("it was to read on")
        };
        drop(leading);
        assert_eq!(rig.flights.len(), 0, "nobody is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_from_before_a_write_is_not_joined_after_it() {
        let rig = Rig::new();
        let before = rig.lead();
        let joined = rig.wait();
        rig.versions.written(Place::table(1));
        let after = rig.lead();
        before.land(&entry(&Arc::new(rig.versions.snapshot(&[]))));
        assert!(
            matches!(joined.await.unwrap(), Landing::Entry(_)),
            "it had begun before the write"
        );
        let again = rig.wait();
        after.fail();
        assert!(matches!(again.await.unwrap(), Landing::Alone));
        assert_eq!(rig.flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_something_newer_reads_for_itself() {
        let rig = Rig::new();
        let began = Instant::now();
        let leader = rig.lead();
        assert_eq!(leader.since(), began);
        assert!(matches!(rig.join(Some(began)), Role::Wait(_)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(rig.join(Some(Instant::now())), Role::Lead(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_has_to_show_the_latest_write() {
        let rig = Rig::new();
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        rig.versions.written(Place::table(1));
        let written = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        let snapshot = || rig.versions.snapshot(&[Place::table(1)]);
        let Role::Lead(leading) = rig.flights.join(rig.key, None, began, &rig.versions, snapshot) else {
            panic!("somebody reads already")
        };
        assert!(leading.since() >= written);
    }
}
