//! A store that the caches of several processes share, so that what one has read the others need not.
//!
//! An answer lies there under a key that names everything that decides it, and how far the notifications of its tables had
//! been heard when its read began. Who has heard of more asks under another key: an answer that a write has outdated is not
//! found, whatever has become of it. So nothing has to be deleted in time, and the store is believed in nothing but that it
//! gives back what was put into it, which the tag of each answer proves. For this the processes have to name a point in
//! the notifications alike: see [`world`].

mod frame;
mod guard;
#[cfg(feature = "redis")]
mod redis;
mod stand;
mod work;
mod world;

pub(crate) use frame::Sent;
#[cfg(fuzzing)]
pub(crate) use frame::{Found, sealed};
#[cfg(feature = "redis")]
pub use redis::RedisTier;
pub(crate) use stand::Stand;
#[cfg(fuzzing)]
pub(crate) use world::Count;

use crate::key::{Key, KeySeed};
use db_core::Observers;
use futures_util::future::BoxFuture;
use guard::Guard;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::{
    error, fmt,
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use work::Task;
use world::World;

/// Where a process says that it has begun to listen.
pub(crate) const HELLO: &str = "db_cache_hello";
/// What waits to be written; beyond that it is left out.
const QUEUE: usize = 1024;
/// The shortest secret.
const SECRET: usize = 16;

/// A store of bytes, such as Redis. Errors are counted, and the store is left alone for a while after a few of them; each
/// call is given up after [`Sharing::timeout`], so the futures must be cancel-safe.
pub trait Tier: Send + Sync + 'static {
    /// What lies under a key, if anything does.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Kept>, TierError>>;

    /// Puts something there for so long.
    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8], keep: Duration) -> BoxFuture<'a, Result<(), TierError>>;

    /// Adds something to the list of this key, which may go after so long.
    fn add<'a>(&'a self, key: &'a str, bytes: &'a [u8], keep: Duration) -> BoxFuture<'a, Result<(), TierError>>;

    /// The list of this key, at most the first hundred of it.
    fn list<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Vec<Vec<u8>>, TierError>>;

    /// It has not answered in time: whatever connection it has may lead nowhere.
    fn suspect(&self) {}
}

/// What a store had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What was put there.
    pub bytes: Vec<u8>,
    /// For how long it will be there, by the store's own clock.
    pub left: Duration,
}

/// Why a store did not do what it was asked.
#[derive(Debug)]
pub struct TierError(Box<dyn error::Error + Send + Sync>);

impl TierError {
    /// For this reason.
    pub fn new(reason: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shared tier: {}", self.0)
    }
}

impl error::Error for TierError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// A store, and the terms on which it is shared.
#[derive(Clone)]
pub struct Sharing {
    tier: Arc<dyn Tier>,
    secret: [u8; 16],
    timeout: Duration,
}

impl Sharing {
    /// Shares answers with all who use the same store and the same secret, which makes the keys and proves what lies there:
    /// at least 16 bytes that nobody can guess.
    ///
    /// # Errors
    /// [`TierError`] when the secret is shorter.
    pub fn new(tier: impl Tier, secret: &[u8]) -> Result<Self, TierError> {
        if secret.len() < SECRET {
            return Err(TierError::new("its secret needs at least 16 bytes"));
        }
        Ok(Self {
            tier: Arc::new(tier),
            secret: derived(secret),
            timeout: Duration::from_millis(50),
        })
    }

    /// How long one look or write may take, after which the database is asked instead. Default 50 ms (own choice: a store
    /// in the same network answers within 1 ms).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Sixteen bytes of a secret of any length.
fn derived(secret: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_keys(0x6462_5f63_6163_6865, 0x7368_6172_6564);
    hasher.write(secret);
    u128::from(hasher.finish128()).to_le_bytes()
}

/// What one process does with its store.
pub(crate) struct Shared {
    guard: Guard,
    secret: [u8; 16],
    /// Makes the callers' keys.
    seed: KeySeed,
    pub(crate) world: World,
    queue: mpsc::Sender<Task>,
    /// Held by the one who works through them, one after the other, for as long as it does.
    tasks: tokio::sync::Mutex<mpsc::Receiver<Task>>,
    /// This process's own hello has been heard: whoever was there before has an answer to it.
    called: Notify,
    /// A hello has to be said anew.
    pub(crate) again: Notify,
    pub(crate) counts: Counts,
}

#[derive(Default)]
pub(crate) struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    refused: AtomicU64,
    behind: AtomicU64,
    left_out: AtomicU64,
    puts: AtomicU64,
}

/// What the shared tier has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierStats {
    /// Answers that another process had read.
    pub hits: u64,
    /// Looks that found nothing.
    pub misses: u64,
    /// What lay there and was not what it should be, or not what could be read: cut off, forged, of another version, or
    /// past its time.
    pub refused: u64,
    /// Looks that were left out, since this process has not heard yet of a write that it knows of, or shares no point of
    /// the notifications with others.
    pub behind: u64,
    /// Answers put there.
    pub puts: u64,
    /// Answers that were not put there: too many waited, or the store was away.
    pub left_out: u64,
    /// Calls of the store that failed or took too long.
    pub failures: u64,
    /// Calls that were spared it after such failures.
    pub spared: u64,
    /// Whether it is left alone at this moment.
    pub away: bool,
    /// Whether this process can share at this moment: it hears of writes, and has found its place among the others.
    pub joined: bool,
}

impl Shared {
    pub(crate) fn new(sharing: Sharing, observers: Observers) -> Self {
        let (queue, tasks) = mpsc::channel(QUEUE);
        Self {
            guard: Guard::new(sharing.tier, sharing.timeout, observers),
            seed: KeySeed::shared(&sharing.secret, &[b"answer"]),
            secret: sharing.secret,
            world: World::default(),
            queue,
            tasks: tokio::sync::Mutex::new(tasks),
            called: Notify::new(),
            again: Notify::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn seed(&self) -> &KeySeed {
        &self.seed
    }

    pub(crate) fn stats(&self) -> TierStats {
        let (failures, spared, away) = self.guard.figures();
        let counts = &self.counts;
        TierStats {
            hits: counts.hits.load(Relaxed),
            misses: counts.misses.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            behind: counts.behind.load(Relaxed),
            puts: counts.puts.load(Relaxed),
            left_out: counts.left_out.load(Relaxed),
            failures,
            spared,
            away,
            joined: self.world.joined(),
        }
    }

    pub(crate) fn behind(&self) {
        self.counts.behind.fetch_add(1, Relaxed);
    }

    /// Somebody else has said hello, or this process has heard its own.
    pub(crate) fn hello(&self, payload: &str) {
        let Some((nonce, since)) = parse_hello(payload) else {
            return;
        };
        match self.world.hello(nonce, since) {
            world::Heard::Own => self.called.notify_one(),
            world::Heard::Other(offer) => self.later(Task::Offer {
                key: offers_key(nonce),
                bytes: frame::sealed(&self.secret, &offers_key(nonce), offer.encode()),
            }),
            world::Heard::Nothing => {}
        }
    }

    /// What is to be done once an answer has been put, or left out.
    fn wrote(&self, written: bool) {
        let counts = &self.counts;
        let counter = if written { &counts.puts } else { &counts.left_out };
        counter.fetch_add(1, Relaxed);
    }

    /// What a stand looks up, if it is there and what it should be.
    pub(crate) async fn get(&self, stand: &Stand) -> Option<frame::Found> {
        let kept = self.guard.run(|tier| tier.get(&stand.key)).await?;
        let Some(kept) = kept else {
            self.counts.misses.fetch_add(1, Relaxed);
            return None;
        };
        let found = frame::Found::open(&self.secret, &stand.key, kept);
        if found.is_none() {
            self.refused();
        }
        found
    }

    pub(crate) fn refused(&self) {
        self.counts.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn hit(&self) {
        self.counts.hits.fetch_add(1, Relaxed);
    }

    /// Puts an answer there, some time soon.
    pub(crate) fn put(&self, stand: &Stand, answer: &Sent<'_>) {
        let bytes = frame::sealed(&self.secret, &stand.key, answer.encode());
        let (key, keep) = (stand.key.clone(), answer.keep);
        self.later(Task::Put { key, bytes, keep });
    }

    fn later(&self, task: Task) {
        if self.queue.try_send(task).is_err() {
            self.counts.left_out.fetch_add(1, Relaxed);
        }
    }

    /// The name in the store of an answer at a point of the notifications.
    fn name(&self, key: Key, place: &[u8], scope: &[u8]) -> String {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&key.get().to_le_bytes());
        hasher.write(&(place.len() as u64).to_le_bytes());
        hasher.write(place);
        hasher.write(scope);
        format!("db_cache:{:032x}", u128::from(hasher.finish128()))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// A number that nobody has used or can guess.
pub(crate) fn nonce() -> u128 {
    // Random bits come from the operating system through std's hasher.
    let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    u128::from(random()) << 64 | u128::from(random())
}

/// Where the answers to a hello lie.
fn offers_key(nonce: u128) -> String {
    format!("db_cache:hello:{nonce:032x}")
}

/// A hello is a number of its own, and the server's time in microseconds.
pub(crate) fn parse_hello(payload: &str) -> Option<(u128, i64)> {
    let (nonce, since) = payload.split_once(' ')?;
    Some((u128::from_str_radix(nonce, 16).ok()?, since.parse().ok()?))
}
