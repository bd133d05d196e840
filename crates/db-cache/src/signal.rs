//! What the background work and the callers tell each other: whether other writers are heard of, whether the database
//! is in trouble, and when the schema has to be read again.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// Trouble that nobody confirms is forgotten after this time; longer than two heartbeats by default, so that a server
/// that hangs is not taken for well between them.
const TROUBLE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Hearing {
    /// Nobody listens, by the settings.
    Off,
    /// Not yet: the first attempt is under way.
    Starting,
    Live,
    Lost,
}

/// Times are milliseconds since `start`.
pub(crate) struct Signals {
    start: Instant,
    hearing: AtomicU8,
    /// Until when the last proof of life holds.
    heard_until: AtomicU64,
    /// When the last proof of life was asked for, in microseconds: every commit of before has been heard of.
    heard_at: AtomicU64,
    trouble_until: AtomicU64,
    /// Moves with every change of schema, so that a catalogue that was read before is not taken for current.
    schema: AtomicU64,
    wanted: AtomicBool,
    /// Counts the servers: whoever listens to one of before must listen to another one.
    server: watch::Sender<u64>,
    /// Wakes those who wait for a change of any of this.
    changed: Notify,
    /// Wakes the background work.
    pub(crate) work: Notify,
    /// Asks whoever listens for a proof of life before the next one is due.
    pub(crate) beat: Notify,
}

impl Signals {
    pub(crate) fn new(listen: bool) -> Self {
        Self {
            start: Instant::now(),
            hearing: AtomicU8::new(if listen { Hearing::Starting } else { Hearing::Off } as u8),
            heard_until: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            trouble_until: AtomicU64::new(0),
            schema: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            server: watch::Sender::new(0),
            changed: Notify::new(),
            work: Notify::new(),
            beat: Notify::new(),
        }
    }

    /// Whether what is in memory may be given out: other writers are heard of, or nobody is meant to listen.
    pub(crate) fn verified(&self, now: Instant) -> bool {
        match self.hearing() {
            Hearing::Off => true,
            Hearing::Live => self.millis(now) <= self.heard_until.load(Ordering::Acquire),
            Hearing::Starting | Hearing::Lost => false,
        }
    }

    pub(crate) fn listening(&self) -> Option<bool> {
        match self.hearing() {
            Hearing::Off => None,
            hearing => Some(hearing == Hearing::Live),
        }
    }

    pub(crate) fn starting(&self) -> bool {
        self.hearing() == Hearing::Starting
    }

    /// The listening connection was alive at `at`; that counts for `lease`.
    pub(crate) fn heard(&self, at: Instant, lease: Duration) {
        let micros = u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(0);
        self.heard_at.fetch_max(micros, Ordering::AcqRel);
        self.heard_until.fetch_max(self.millis(at + lease), Ordering::AcqRel);
    }

    /// A moment before which nothing was committed to a watched table that has not been heard of; `None` while nobody
    /// listens.
    pub(crate) fn heard_all_before(&self) -> Option<Instant> {
        let micros = self.heard_at.load(Ordering::Acquire);
        (self.hearing() == Hearing::Live && micros > 0).then(|| self.start + Duration::from_micros(micros))
    }

    pub(crate) fn live(&self) {
        self.hearing.store(Hearing::Live as u8, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Returns whether it was live before.
    pub(crate) fn lost(&self) -> bool {
        self.heard_until.store(0, Ordering::Release);
        self.heard_at.store(0, Ordering::Release);
        let before = self.hearing.swap(Hearing::Lost as u8, Ordering::AcqRel);
        self.changed.notify_waiters();
        before == Hearing::Live as u8
    }

    /// The server is another one from now on.
    pub(crate) fn server_changed(&self) {
        self.server.send_modify(|server| *server += 1);
        if self.hearing() != Hearing::Off {
            self.lost();
        }
    }

    /// Follows the server: whoever holds it can see and wait for the next one.
    pub(crate) fn server(&self) -> watch::Receiver<u64> {
        self.server.subscribe()
    }

    /// The database can't be reached, or does not answer.
    pub(crate) fn in_trouble(&self) {
        let until = self.millis(Instant::now() + TROUBLE);
        self.trouble_until.fetch_max(until, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn well(&self) {
        if self.trouble_until.load(Ordering::Relaxed) != 0 {
            self.trouble_until.store(0, Ordering::Release);
        }
    }

    pub(crate) fn trouble(&self) -> bool {
        let until = self.trouble_until.load(Ordering::Acquire);
        until != 0 && self.millis(Instant::now()) < until
    }

    /// Returns when the database is known to be in trouble.
    pub(crate) async fn until_trouble(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.trouble() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn schema_changed(&self) {
        self.schema.fetch_add(1, Ordering::SeqCst);
        self.work.notify_one();
    }

    pub(crate) fn schema(&self) -> u64 {
        self.schema.load(Ordering::SeqCst)
    }

    /// Somebody wants answers kept: the background work may begin.
    pub(crate) fn wanted(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.work.notify_one();
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `done`, at most `limit`.
    pub(crate) async fn wait_until(&self, limit: Duration, done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if done() {
                return true;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return done();
            }
        }
    }

    fn hearing(&self) -> Hearing {
        match self.hearing.load(Ordering::Acquire) {
            0 => Hearing::Off,
            1 => Hearing::Starting,
            2 => Hearing::Live,
            _ => Hearing::Lost,
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}
