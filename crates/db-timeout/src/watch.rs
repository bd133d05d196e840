//! One call on its way: from its limit to what is noted about its end.

use crate::{
    books::{Entry, Tracked},
    learner::Widened,
    ledger::{Ledger, Settings},
    limit::{Ending, Findings, Limit},
};
use db_core::{AcquireFailure, Call, Error, Event, Fingerprint, LimitOrigin, QueryClass, Result, Spent, TimeoutError};
use std::{panic::Location, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Notes how the call ended; dropped before that, the caller stopped waiting.
pub(crate) struct Watch<'a> {
    ledger: &'a Ledger,
    /// Those of the start: a call keeps its limit when the settings are swapped.
    settings: Arc<Settings>,
    class: QueryClass,
    site: Option<&'static Location<'static>>,
    statement: Option<Fingerprint>,
    tracked: Option<Arc<Tracked>>,
    start: Instant,
    limit: Limit,
    acts: bool,
    open: bool,
}

impl<'a> Watch<'a> {
    /// `None` when the layer is off.
    pub(crate) fn begin(ledger: &'a Ledger, call: &Call) -> Option<Self> {
        let settings = ledger.settings();
        if settings.config.mode.is_off() {
            return None;
        }
        let settings = arc_swap::Guard::into_inner(settings);
        let config = &settings.config;
        // Whoever measures the call has just read the clock.
        let start = Spent::call_began().unwrap_or_else(Instant::now);
        let tracked = call.statement.map(|statement| ledger.statements().track(statement));
        let learned = tracked.as_ref().and_then(|tracked| tracked.learned());
        let class = settings.class(call.class).limits.timeout;
        Some(Self {
            ledger,
            class: call.class,
            site: call.site,
            statement: call.statement,
            tracked,
            start,
            limit: Limit::nearest(call, start, class, learned, &config.adaptive),
            acts: config.mode.enforces(),
            open: true,
            settings,
        })
    }

    /// Refuses a call whose limit has passed already.
    pub(crate) fn admit(&mut self) -> Result<()> {
        if !self.acts || !self.limit.length.is_zero() {
            return Ok(());
        }
        self.close(Ending::Refused, Instant::now());
        let error = TimeoutError::before_start(self.class, self.limit.origin);
        Err(error.with_statement(self.statement).into())
    }

    /// When the call has to end; `None` when it is only observed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.acts.then(|| self.start + self.limit.length)
    }

    /// Whether the limit is one that the caller did not name.
    pub(crate) fn by_class(&self) -> bool {
        matches!(self.limit.origin, LimitOrigin::Class | LimitOrigin::Adaptive)
    }

    /// The call came to an end of its own; `streamed` says whether its caller had rows before that.
    pub(crate) fn settle<T>(&mut self, out: &Result<T>, streamed: bool) {
        let now = Instant::now();
        Spent::call_ended(now);
        let took = now.saturating_duration_since(self.start);
        let ending = match out {
            Ok(_) if streamed => Ending::Streamed,
            Ok(_) => Ending::Finished,
            Err(error) if is_about_time(error) && took >= self.limit.length => Ending::TimedOut,
            Err(_) => Ending::Failed,
        };
        self.close(ending, now);
    }

    /// The call was given up.
    pub(crate) fn expire(&mut self) -> Error {
        let elapsed = self.close(Ending::TimedOut, Instant::now());
        let error = TimeoutError::new(self.class, self.limit.origin, self.limit.length, elapsed);
        error.with_statement(self.statement).into()
    }

    fn close(&mut self, ending: Ending, now: Instant) -> Duration {
        self.open = false;
        let took = now.saturating_duration_since(self.start);
        let (config, class) = (&self.settings.config, self.settings.class(self.class));
        let findings = Findings::of(ending, took, &self.limit, self.acts, config.near_limit, &class.limits);
        let entry = Entry {
            ending,
            took,
            findings,
            now,
            config,
            class: &class.limits,
        };
        class.book.note(&entry);
        let widened = self.tracked.as_ref().and_then(|tracked| tracked.note(&entry));
        self.tell(&entry, widened);
        took
    }

    fn tell(&self, entry: &Entry<'_>, widened: Option<Widened>) {
        let Self {
            class, site, statement, ..
        } = *self;
        let Limit {
            length: limit, origin, ..
        } = self.limit;
        let (elapsed, threshold) = (entry.took, entry.class.alert);
        let observers = self.ledger.observers();
        if matches!(entry.ending, Ending::TimedOut | Ending::Refused) {
            observers.tell(|| Event::TimedOut {
                class,
                statement,
                site,
                elapsed,
                limit,
                origin,
            });
        }
        if let Some((limit, origin)) = entry.findings.passed {
            observers.tell(|| Event::WouldTimeOut {
                class,
                statement,
                site,
                elapsed,
                limit,
                origin,
            });
        }
        if entry.findings.near {
            observers.tell(|| Event::NearLimit {
                class,
                statement,
                site,
                elapsed,
                limit,
                origin,
            });
        }
        if entry.findings.slow {
            observers.tell(|| Event::SlowCall {
                class,
                statement,
                site,
                elapsed,
                threshold,
            });
        }
        if let (Some(Widened { from, to }), Some(statement)) = (widened, statement) {
            observers.tell(|| Event::LimitWidened { statement, from, to });
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.open {
            self.close(Ending::Abandoned, Instant::now());
        }
    }
}

/// Whether a layer below gave up because of the deadline that it was handed.
fn is_about_time(error: &Error) -> bool {
    match error {
        Error::Timeout(_) => true,
        Error::Acquire(acquire) => acquire.failure == AcquireFailure::TimedOut,
        _ => false,
    }
}
