//! The loop, and what it notes.

use crate::{
    books::Ending,
    classify::{Effect, Fate, Situation, Verdict, decide, fate},
    course::{Circumstances, Course},
    policy::Shared,
};
use db_core::{Call, Error, Event, Fingerprint, GaveUp, Part, QueryClass, RetryCause, SqlState, Waiting};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Runs `attempt` until it succeeds or is given up. The only retry loop there is.
pub(crate) async fn drive<T, E, F, A>(
    attempts: &mut Attempts<'_>,
    judge: impl Fn(&E, u32) -> Trouble,
    mut attempt: A,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    A: FnMut() -> F,
{
    let mut doubt = None;
    loop {
        attempts.start();
        let error = match attempt().await {
            Ok(value) => {
                attempts.succeed();
                return Ok(value);
            }
            Err(error) => error,
        };
        let trouble = judge(&error, attempts.started);
        let Some(wait) = attempts.again(&trouble) else {
            return Err(trouble.most_telling(error, doubt));
        };
        // Nothing that is not needed stays in the future during the pause.
        if trouble.doubtful {
            doubt = Some(error);
        } else {
            drop(error);
        }
        if !wait.is_zero() {
            let _pause = Waiting::on(Part::Backoff);
            sleep(wait).await;
        }
    }
}

/// A failure, judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) verdict: Verdict,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) state: Option<SqlState>,
    /// Nothing was sent.
    pub(crate) not_sent: bool,
    /// It may have changed something.
    pub(crate) doubtful: bool,
}

impl Trouble {
    pub(crate) fn of(error: &Error, situation: Situation) -> Self {
        let mut verdict = decide(error, &situation);
        if verdict == Verdict::Never && !situation.replayable {
            // Worth a try, were it not for the rows that are gone: the caller should hear of that.
            let fresh = decide(
                error,
                &Situation {
                    replayable: true,
                    ..situation
                },
            );
            verdict = if fresh == Verdict::Never {
                verdict
            } else {
                Verdict::Ambiguous
            };
        }
        let fate = fate(error);
        Self {
            verdict,
            retry_after: error.retry_after(),
            state: error.sqlstate(),
            not_sent: fate == Fate::NotSent,
            doubtful: fate == Fate::MayHaveRun && situation.effect != Effect::Read,
        }
    }

    /// The last error; but an earlier attempt that may have run says more than a last one that was not even sent.
    fn most_telling<E>(&self, last: E, doubt: Option<E>) -> E {
        match doubt {
            Some(doubt) if self.not_sent => doubt,
            _ => last,
        }
    }
}

/// The attempts of one call. Dropped before its end, the caller has gone.
pub(crate) struct Attempts<'a> {
    shared: &'a Shared,
    course: Course,
    started: u32,
    class: QueryClass,
    statement: Option<Fingerprint>,
    deadline: Option<Instant>,
    /// The cause of the last retry.
    last: Option<RetryCause>,
    open: bool,
}

impl<'a> Attempts<'a> {
    /// `None` when the mode is off.
    pub(crate) fn begin(shared: &'a Shared, call: &Call) -> Option<Self> {
        if shared.settings().config.mode.is_off() {
            return None;
        }
        shared.budget().deposit();
        Some(Self {
            shared,
            course: Course::default(),
            started: 0,
            class: call.class,
            statement: call.statement,
            deadline: call.deadline,
            last: None,
            open: true,
        })
    }

    fn start(&mut self) {
        self.started = self.started.saturating_add(1);
    }

    fn succeed(&mut self) {
        self.end(Ending::Succeeded);
    }

    /// The pause before the next attempt, if there is one.
    fn again(&mut self, trouble: &Trouble) -> Option<Duration> {
        let settings = self.shared.settings();
        let enforces = settings.config.mode.enforces();
        let circumstances = Circumstances {
            verdict: self.shared.allowed(trouble.verdict, self.class),
            retry_after: trouble.retry_after,
            failed: self.started,
            max_attempts: settings.config.max_attempts,
            now: Instant::now(),
            deadline: self.deadline,
            observe: !enforces,
        };
        let (attempt, class, statement, state) = (self.started, self.class, self.statement, trouble.state);
        match self.course.decide(self.shared, circumstances) {
            Ok(Some(again)) if enforces => {
                let (cause, wait) = (again.cause, again.wait);
                self.last = Some(cause);
                self.shared.books.retried(cause);
                self.shared.observers.tell(|| Event::Retried {
                    cause,
                    state,
                    attempt,
                    wait,
                    class,
                    statement,
                });
                return Some(wait);
            }
            Ok(Some(again)) => {
                let (cause, wait) = (again.cause, again.wait);
                self.shared.books.would_retry(cause);
                self.shared.observers.tell(|| Event::WouldRetry {
                    cause,
                    state,
                    attempt,
                    wait,
                    class,
                    statement,
                });
                self.end(Ending::Failed);
            }
            Ok(None) => self.end(Ending::Failed),
            Err(reason) => {
                self.end(Ending::GaveUp(reason));
                self.tell_gave_up(reason, state);
            }
        }
        None
    }

    fn tell_gave_up(&self, reason: GaveUp, state: Option<SqlState>) {
        let (attempts, class, statement) = (self.started, self.class, self.statement);
        self.shared.observers.tell(|| Event::RetryGaveUp {
            reason,
            state,
            attempts,
            class,
            statement,
        });
    }

    fn end(&mut self, ending: Ending) {
        self.open = false;
        self.shared.books.end(ending, self.started, self.last);
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        if self.open {
            self.end(Ending::Abandoned);
        }
    }
}
