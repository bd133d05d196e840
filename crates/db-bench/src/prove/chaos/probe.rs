//! The same calls at the same pace through the stack and through a pool without one.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use db_stack::{BreakerState, CloseReason, Db, Error, Event, Observer};
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// What a caller waits for an answer, either way.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// A call that takes longer is disturbed.
const SLOW: Duration = Duration::from_millis(250);
const CALLERS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Read,
    Write,
    /// Two rows that others lock as well.
    Hot,
    /// A column whose type changes.
    Shape,
    /// A row on the small disk.
    Bulk,
}

/// Who is asked.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    fn ask(&self, question: Question, id: i32) -> impl Future<Output = Result<(), Error>> + Send;
}

macro_rules! ask {
    ($pool:expr, $question:expr, $id:expr) => {{
        let (pool, id) = ($pool, $id);
        match $question {
            Question::Read => {
                let read = sqlx::query_scalar::<_, i64>("SELECT n FROM probe WHERE id = $1").bind(id);
                read.fetch_one(pool).await.map(drop)?;
            }
            Question::Write => {
                let write = sqlx::query("UPDATE probe SET n = n + 1 WHERE id = $1").bind(id);
                write.execute(pool).await.map(drop)?;
            }
            Question::Shape => {
                let read = sqlx::query_scalar::<_, String>("SELECT note FROM shape WHERE id = $1").bind(id % 8);
                read.fetch_one(pool).await.map(drop)?;
            }
            Question::Bulk => {
                let write = sqlx::query("INSERT INTO bulk VALUES ($1, repeat('x', 200))").bind(i64::from(id));
                write.execute(pool).await.map(drop)?;
            }
            Question::Hot => unreachable!("a transaction has its own arm"),
        }
        Ok(())
    }};
}

const LOCKS: [&str; 2] = [
    "UPDATE hot SET n = n + 1 WHERE id = 1",
    "UPDATE hot SET n = n + 1 WHERE id = 2",
];

/// The stack; each call has its limit.
#[derive(Clone)]
pub(crate) struct Stacked(pub(crate) Db);

impl Subject for Stacked {
    async fn ask(&self, question: Question, id: i32) -> Result<(), Error> {
        if question == Question::Hot {
            let db = self.0.deadline(Instant::now() + PATIENCE);
            let body = async move |tx: &mut db_stack::TxConn| {
                for lock in LOCKS {
                    sqlx::query(lock).execute(&mut *tx).await?;
                }
                Ok::<_, Error>(())
            };
            return db.transaction(body).await;
        }
        let db = self.0.timeout(PATIENCE);
        ask!(&db, question, id)
    }
}

/// sqlx's pool with its defaults; the caller's patience is all that limits a call.
#[derive(Clone)]
pub(crate) struct Bare(pub(crate) PgPool);

impl Subject for Bare {
    async fn ask(&self, question: Question, id: i32) -> Result<(), Error> {
        let asked = async {
            if question == Question::Hot {
                let mut tx = self.0.begin().await?;
                for lock in LOCKS {
                    sqlx::query(lock).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                return Ok(());
            }
            ask!(&self.0, question, id)
        };
        match timeout(PATIENCE, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }
}

#[derive(Clone, Copy)]
struct Sample {
    began: Instant,
    ended: Instant,
    failed: bool,
}

/// Calls of one subject since the last time that somebody looked.
#[derive(Clone, Default)]
pub(crate) struct Samples(Arc<Mutex<Vec<Sample>>>);

/// What one fault did to one subject.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effect {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    /// From the fault to the first caller who met it.
    pub(crate) noticed: Option<Duration>,
    /// From the end of the fault to the end of the last call that it disturbed.
    pub(crate) recovered: Duration,
    /// It was still disturbed at the end.
    pub(crate) disturbed: bool,
}

impl Samples {
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Since when no call was disturbed, given that calls ended since then at all.
    pub(crate) fn quiet_since(&self) -> Option<Instant> {
        let samples = self.0.lock();
        let last = samples
            .iter()
            .filter(|sample| sample.is_disturbed())
            .map(|sample| sample.ended)
            .max();
        let after = |sample: &&Sample| last.is_none_or(|last| sample.began >= last);
        samples.iter().filter(after).map(|sample| sample.ended).min()
    }

    pub(crate) fn effect(&self, began: Instant, cured: Instant) -> Effect {
        let samples = self.0.lock();
        let disturbed = || samples.iter().filter(|sample| sample.is_disturbed());
        let last = disturbed().map(|sample| sample.ended).max();
        let calm = samples
            .iter()
            .filter(|sample| !sample.is_disturbed() && last.is_none_or(|last| sample.ended > last));
        Effect {
            calls: samples.len() as u64,
            errors: samples.iter().filter(|sample| sample.failed).count() as u64,
            noticed: disturbed()
                .map(|sample| sample.ended)
                .min()
                .map(|at| at.saturating_duration_since(began)),
            recovered: last.map_or(Duration::ZERO, |at| at.saturating_duration_since(cured)),
            disturbed: calm.count() < CALLERS as usize,
        }
    }
}

impl Sample {
    fn is_disturbed(&self) -> bool {
        self.failed || self.ended - self.began > SLOW
    }
}

pub(crate) fn begin(
    subject: &impl Subject,
    questions: &'static [Question],
    samples: &Samples,
    stopped: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    for caller in 0..CALLERS {
        let (subject, samples, stopped) = (subject.clone(), samples.clone(), stopped.clone());
        tasks.spawn(async move {
            let mut dice = fastrand::Rng::with_seed(caller);
            while !*stopped.borrow() {
                let question = questions[dice.usize(0..questions.len())];
                let began = Instant::now();
                let failed = subject.ask(question, dice.i32(0..64)).await.is_err();
                samples.0.lock().push(Sample {
                    began,
                    ended: Instant::now(),
                    failed,
                });
                sleep(Duration::from_millis(dice.u64(10..20))).await;
            }
        });
    }
}

/// The first sign of trouble that the stack itself saw.
#[derive(Default)]
pub(crate) struct Signs {
    armed: AtomicBool,
    first: Mutex<Option<Instant>>,
}

impl Signs {
    pub(crate) fn arm(&self) {
        *self.first.lock() = None;
        self.armed.store(true, Ordering::Release);
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        *self.first.lock()
    }
}

impl Observer for Signs {
    fn event(&self, event: &Event) {
        let trouble = matches!(
            event,
            Event::ConnectFailed { .. }
                | Event::Retried { .. }
                | Event::NodeBanned { .. }
                | Event::PrimaryLost { .. }
                | Event::EndpointMoved { .. }
                | Event::TimedOut { .. }
                | Event::BreakerChanged {
                    to: BreakerState::Open,
                    ..
                }
                | Event::Closed {
                    reason: CloseReason::Broken | CloseReason::Invalid,
                    ..
                }
        );
        if trouble && self.armed.swap(false, Ordering::AcqRel) {
            *self.first.lock() = Some(Instant::now());
        }
    }
}
