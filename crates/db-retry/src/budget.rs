//! How many retries there may be, over all callers.

use db_core::RetryCause;
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The share of the span for which an unused retry is kept (mean life). A call earns as much less, so that a burst of
/// saved retries and those earned meanwhile are together no more than the ratio over one span.
const KEPT: f64 = 0.1;
/// Deposits that may wait to be entered in the books: so few that a change of the call rate is soon seen.
const BATCH: u32 = 64;

/// A purse of retries that all callers of a database share, and hedges as well.
///
/// Each call puts in a little ([`deposit`](Self::deposit)), each retry takes out ([`try_withdraw`](Self::try_withdraw)).
/// When everything fails, retries run out and load stays near what the callers asked for: retries are never more than
/// `floor + ratio * calls`; and at a steady rate, over the span or longer and from 11 * `floor / ratio` calls on, never
/// more than `ratio * calls`. What is above the floor expires if nobody needs it; time never adds anything.
///
/// Cheap to clone; clones share one purse. A deposit is one atomic addition (each 64th takes a short lock), a withdrawal
/// takes that lock.
#[derive(Clone)]
pub struct RetryBudget(Arc<Purse>);

struct Purse {
    pending: AtomicU32,
    books: Mutex<Books>,
}

struct Books {
    per_call: f64,
    floor: f64,
    life: Duration,
    tokens: f64,
    at: Instant,
}

impl RetryBudget {
    /// A purse that holds `floor` retries, and gains `ratio` retries per call over each `span`. Nonsense (NaN, negative)
    /// counts as zero.
    pub fn new(ratio: f64, floor: f64, span: Duration) -> Self {
        let mut books = Books {
            per_call: 0.0,
            floor: 0.0,
            life: Duration::ZERO,
            tokens: 0.0,
            at: Instant::now(),
        };
        books.adjust(ratio, floor, span);
        books.tokens = books.floor;
        Self(Arc::new(Purse {
            pending: AtomicU32::new(0),
            books: Mutex::new(books),
        }))
    }

    /// Changes the terms; what has been saved stays, up to what the new terms allow.
    pub fn adjust(&self, ratio: f64, floor: f64, span: Duration) {
        let mut books = self.0.books.lock();
        books.settle(&self.0.pending, Instant::now());
        books.adjust(ratio, floor, span);
    }

    /// A call was made for the first time.
    pub fn deposit(&self) {
        let waiting = self.0.pending.fetch_add(1, Ordering::Relaxed) + 1;
        if waiting.is_multiple_of(BATCH) {
            // Whoever holds the lock is settling already.
            if let Some(mut books) = self.0.books.try_lock() {
                books.settle(&self.0.pending, Instant::now());
            }
        }
    }

    /// Takes `cost` retries out if so many are there; a plain retry or hedge costs 1, see [`cost_of`](Self::cost_of).
    pub fn try_withdraw(&self, cost: f64) -> bool {
        let mut books = self.0.books.lock();
        books.settle(&self.0.pending, Instant::now());
        let there = books.tokens >= cost;
        if there {
            books.tokens -= cost.max(0.0);
        }
        there
    }

    /// Whether `cost` retries are there; takes nothing.
    pub fn has(&self, cost: f64) -> bool {
        self.balance() >= cost
    }

    /// The retries that are there.
    pub fn balance(&self) -> f64 {
        let mut books = self.0.books.lock();
        books.settle(&self.0.pending, Instant::now());
        books.tokens
    }

    /// What a retry for this cause costs.
    ///
    /// 1, except: nothing for a stale plan, since each connection has at most one per change of schema; 0.1 for a
    /// deadlock or serialization failure, since the server is well and has just ended a transaction: such retries can
    /// double the load, which is what keeps contended transactions going.
    pub fn cost_of(cause: RetryCause) -> f64 {
        match cause {
            RetryCause::StalePlan => 0.0,
            RetryCause::SerializationFailure | RetryCause::Deadlock => 0.1,
            _ => 1.0,
        }
    }
}

impl Default for RetryBudget {
    /// 10 % of the calls, or 10 retries, over 10 s.
    fn default() -> Self {
        Self::new(0.1, 10.0, Duration::from_secs(10))
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBudget")
            .field("balance", &self.balance())
            .finish_non_exhaustive()
    }
}

impl Books {
    fn adjust(&mut self, ratio: f64, floor: f64, span: Duration) {
        let sane = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        self.per_call = sane(ratio) / (1.0 + KEPT);
        self.floor = sane(floor);
        self.life = span.mul_f64(KEPT);
        self.tokens = if self.per_call == 0.0 {
            self.tokens.min(self.floor)
        } else {
            self.tokens
        };
    }

    /// Enters the deposits since the last time, as if they had come evenly. What is there expires all along, but not
    /// below the floor.
    fn settle(&mut self, pending: &AtomicU32, now: Instant) {
        let income = f64::from(pending.swap(0, Ordering::Relaxed)) * self.per_call;
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let to_floor = (self.floor - self.tokens).clamp(0.0, income);
        let beyond = income - to_floor;
        let before = self.tokens + to_floor;
        // The time in which the part beyond the floor came in.
        let time = if income > 0.0 {
            elapsed * beyond / income
        } else {
            elapsed
        };
        let ages = if self.life.is_zero() {
            f64::INFINITY
        } else {
            time / self.life.as_secs_f64()
        };
        // What is left of an even income: the integral of the same decay.
        let kept = if ages > 1e-9 { (1.0 - (-ages).exp()) / ages } else { 1.0 };
        self.tokens = (before * (-ages).exp() + beyond * kept).max(before.min(self.floor));
    }
}
