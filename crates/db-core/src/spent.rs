//! Where a call's time goes while it waits, noted by the layers that make it wait.
//!
//! A layer says `let _wait = Waiting::on(Part::Queue);` around its wait. Whoever measures the call polls it inside
//! [`Spent::scope`]; without that, a wait costs one look at a thread-local. Nothing is allocated, no layer knows who
//! measures, and a wait whose future is dropped is still seen.

use crate::Observers;
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};
use tokio::time::Instant;

thread_local! {
    static CURRENT: Current = const {
        Current {
            state: Cell::new(State::Unmeasured),
            spent: RefCell::new(Spent::NOTHING),
            owner: Cell::new(0),
            began: Cell::new(None),
            ended: Cell::new(None),
            waited: Cell::new(None),
            held: Cell::new(None),
        }
    };
}

/// The measured call that is being polled by this thread. Its times are copied only where it waits for something: most
/// calls do not.
struct Current {
    state: Cell<State>,
    /// Good only in [`State::Noted`].
    spent: RefCell<Spent>,
    /// Whose call it is: the number of the observers that are told of it.
    owner: Cell<usize>,
    began: Cell<Option<Instant>>,
    ended: Cell<Option<Instant>>,
    waited: Cell<Option<Duration>>,
    held: Cell<Option<Duration>>,
}

/// What layers have said of a call during one poll of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// When it ended, where a layer has read the clock for that.
    pub ended: Option<Instant>,
    /// It has got a lease, and waited so long for it.
    pub waited: Option<Duration>,
    /// It has given its lease back, and had it for so long.
    pub held: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No measured call is being polled.
    Unmeasured,
    /// One is, and has not waited.
    Untouched,
    /// It has.
    Noted,
}

/// What a call can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Its turn: for a lease, or for leave to ask for one.
    Queue,
    /// A test of a connection that was idle.
    Validate,
    /// A connection that was opened while it waited.
    Connect,
    /// The pause before another attempt.
    Backoff,
    /// The reader of its rows.
    Stream,
    /// The same answer, which another caller is already fetching.
    Cache,
    /// A replica that has not yet replayed what the caller wrote.
    Replica,
}

impl Part {
    /// Every part, in the order of [`Part::index`].
    pub const ALL: [Self; 7] = [
        Self::Queue,
        Self::Validate,
        Self::Connect,
        Self::Backoff,
        Self::Stream,
        Self::Cache,
        Self::Replica,
    ];

    /// A small number for tables of times.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Validate => "validate",
            Self::Connect => "connect",
            Self::Backoff => "backoff",
            Self::Stream => "stream",
            Self::Cache => "cache",
            Self::Replica => "replica",
        }
    }
}

/// The time that one call has waited, by what it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    nanos: [u64; Part::ALL.len()],
    /// The wait that has not ended.
    open: Option<(Part, Instant)>,
    /// Whether anything was ever waited for.
    noted: bool,
}

impl Spent {
    /// Of a call that has waited for nothing.
    pub const NOTHING: Self = Self {
        nanos: [0; Part::ALL.len()],
        open: None,
        noted: false,
    };

    /// The time spent on one part, a wait that was dropped half-way included.
    pub fn on(&self, part: Part) -> Duration {
        Duration::from_nanos(self.nanos[part.index()])
    }

    /// All parts together: what is left of a call's duration went to the server, the network and the driver.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.iter().sum())
    }

    /// The parts that took any time, with their times.
    pub fn parts(&self) -> impl Iterator<Item = (Part, Duration)> + '_ {
        let all = Part::ALL.into_iter().zip(&self.nanos);
        all.filter(|(_, nanos)| **nanos > 0)
            .map(|(part, nanos)| (part, Duration::from_nanos(*nanos)))
    }

    /// Whether the call has waited for nothing at all.
    pub fn is_nothing(&self) -> bool {
        !self.noted
    }

    /// Polls a call: what is noted during `poll` is added to `self`.
    pub fn scope<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        self.scope_for(None, None, poll).0
    }

    /// The same for one who reads the clock himself: layers inside find in [`Spent::call_began`] when the call began. What
    /// they say of the call comes back beside what `poll` returns; of its lease only what would be told to `observers`,
    /// who are then told by the report of the call.
    pub fn scope_for<T>(
        &mut self,
        observers: Option<&Observers>,
        began: Option<Instant>,
        poll: impl FnOnce() -> T,
    ) -> (T, Marks) {
        /// Also when `poll` panics.
        struct Restore<'a> {
            mine: &'a mut Spent,
            current: &'a Current,
            outer: State,
            outer_spent: Option<Spent>,
            outer_owner: usize,
            outer_began: Option<Instant>,
            outer_marks: Marks,
        }
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                let current = self.current;
                if current.state.get() == State::Noted {
                    *self.mine = *current.spent.borrow();
                }
                current.state.set(self.outer);
                current.owner.set(self.outer_owner);
                current.began.set(self.outer_began);
                current.set(self.outer_marks);
                if let Some(spent) = self.outer_spent {
                    *current.spent.borrow_mut() = spent;
                }
            }
        }
        CURRENT.with(|current| {
            let outer = current.state.get();
            let outer_spent = (outer == State::Noted).then(|| *current.spent.borrow());
            if self.noted {
                *current.spent.borrow_mut() = *self;
                current.state.set(State::Noted);
            } else {
                current.state.set(State::Untouched);
            }
            let restore = Restore {
                mine: self,
                current,
                outer,
                outer_spent,
                outer_owner: current.owner.replace(observers.map_or(0, Observers::number)),
                outer_began: current.began.replace(began),
                outer_marks: current.marks(),
            };
            current.set(Marks::default());
            let out = poll();
            let marks = current.marks();
            drop(restore);
            (out, marks)
        })
    }

    /// Ends a wait whose future was dropped: call it when the measured call is over.
    pub fn close(&mut self, now: Instant) {
        if let Some((part, since)) = self.open.take() {
            self.add(part, now.saturating_duration_since(since));
        }
    }

    /// When the measured call began that is being polled for the first time: a layer that would read the clock itself
    /// can take this instead.
    pub fn call_began() -> Option<Instant> {
        CURRENT.with(|current| current.began.get())
    }

    /// Notes the lease of the call that is being polled, for its report; false where that is not `owner`'s call, or has
    /// noted one in this poll already.
    pub(crate) fn leased(owner: usize, waited: Duration) -> bool {
        CURRENT.with(|current| {
            let free = current.owner.get() == owner && current.waited.get().is_none();
            if free {
                current.waited.set(Some(waited));
            }
            free
        })
    }

    /// The same for a lease that came back.
    pub(crate) fn returned(owner: usize, held: Duration) -> bool {
        CURRENT.with(|current| {
            let free = current.owner.get() == owner && current.held.get().is_none();
            if free {
                current.held.set(Some(held));
            }
            free
        })
    }

    /// Says that the call which is being polled ends now, to whoever measures it: they need not read the clock again. To
    /// be said in the poll that returns the call's outcome.
    pub fn call_ended(now: Instant) {
        CURRENT.with(|current| {
            if current.state.get() != State::Unmeasured {
                current.ended.set(Some(now));
            }
        });
    }

    fn add(&mut self, part: Part, time: Duration) {
        self.noted = true;
        self.nanos[part.index()] += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 16);
    }
}

impl Current {
    fn marks(&self) -> Marks {
        Marks {
            ended: self.ended.get(),
            waited: self.waited.get(),
            held: self.held.get(),
        }
    }

    fn set(&self, marks: Marks) {
        self.ended.set(marks.ended);
        self.waited.set(marks.waited);
        self.held.set(marks.held);
    }
}

/// A wait in progress; it ends when this is dropped.
#[must_use = "the wait ends when this is dropped"]
#[derive(Debug)]
pub struct Waiting {
    measured: bool,
}

impl Waiting {
    /// Begins a wait. Of waits inside one another only the outer one counts.
    pub fn on(part: Part) -> Self {
        Self::begin(part, Instant::now)
    }

    /// The same for a wait that began at `since`.
    pub fn since(part: Part, since: Instant) -> Self {
        Self::begin(part, || since)
    }

    fn begin(part: Part, since: impl FnOnce() -> Instant) -> Self {
        let measured = with(|spent| {
            let first = spent.open.is_none();
            if first {
                spent.noted = true;
                spent.open = Some((part, since()));
            }
            first
        });
        Self {
            measured: measured.unwrap_or_default(),
        }
    }

    /// Ends the wait; of its time, up to `of` was really spent on `part`.
    pub fn end_with(self, part: Part, of: Duration) {
        self.end(Instant::now, part, of);
    }

    /// The same for a wait that ended at `now`.
    pub fn end_at(self, now: Instant, part: Part, of: Duration) {
        self.end(|| now, part, of);
    }

    fn end(self, now: impl FnOnce() -> Instant, part: Part, of: Duration) {
        if !self.measured {
            return;
        }
        with(|spent| {
            if let Some((outer, since)) = spent.open.take() {
                let waited = now().saturating_duration_since(since);
                let moved = of.min(waited);
                spent.add(part, moved);
                spent.add(outer, waited - moved);
            }
        });
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.measured {
            with(|spent| {
                // Else it was ended already: the clock need not be read.
                if spent.open.is_some() {
                    spent.close(Instant::now());
                }
            });
        }
    }
}

/// `None` when no measured call is being polled.
fn with<T>(change: impl FnOnce(&mut Spent) -> T) -> Option<T> {
    CURRENT.with(|current| {
        let state = current.state.get();
        if state == State::Unmeasured {
            return None;
        }
        let mut spent = current.spent.borrow_mut();
        if state == State::Untouched {
            *spent = Spent::NOTHING;
            current.state.set(State::Noted);
        }
        Some(change(&mut spent))
    })
}

#[cfg(test)]
#[path = "spent_tests.rs"]
mod tests;
