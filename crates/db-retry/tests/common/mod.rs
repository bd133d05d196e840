//! Stand-ins: an inner service that follows a script, errors as a server would send them, an observer that remembers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "each test binary uses its own part")]

use db_core::{
    AcquireError, AcquireFailure, Call, Error, Event, Observer, Operation, Result, Rows, Service, Statement,
};
use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// What an attempt of the script does; the last step repeats for ever.
#[derive(Clone)]
pub(crate) enum Step {
    Ok,
    Fail(fn() -> Error),
    /// Answers only after so long.
    Slow(Duration, fn() -> Error),
    Hang,
}

/// An inner service that follows a script and notes when it was called.
pub(crate) struct Script {
    steps: Mutex<VecDeque<Step>>,
    pub(crate) times: Mutex<Vec<Instant>>,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self {
            steps: Mutex::new(steps.into_iter().collect()),
            times: Mutex::default(),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.times.lock().unwrap().len()
    }

    /// The pauses between attempts.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.times
            .lock()
            .unwrap()
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect()
    }

    pub(crate) async fn step(&self) -> Result<()> {
        self.times.lock().unwrap().push(Instant::now());
        let step = {
            let mut steps = self.steps.lock().unwrap();
            if steps.len() > 1 {
                steps.pop_front()
            } else {
                steps.front().cloned()
            }
        };
        match step.expect("a script has a step") {
            Step::Ok => Ok(()),
            Step::Fail(error) => Err(error()),
            Step::Slow(time, error) => {
                tokio::time::sleep(time).await;
                Err(error())
            }
            Step::Hang => std::future::pending().await,
        }
    }
}

impl<Op: Operation<Output = Rows>> Service<Op> for Script {
    async fn call(&self, _: &Call, _: &Op) -> Result<Rows> {
        self.step().await.map(|()| Rows::default())
    }
}

/// Remembers every event.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<Event>>);

impl Observer for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    pub(crate) fn texts(&self) -> Vec<String> {
        let short = |event: &Event| match event {
            Event::Retried { cause, attempt, .. } => format!("retried {} {attempt}", cause.name()),
            Event::WouldRetry { cause, attempt, .. } => format!("would retry {} {attempt}", cause.name()),
            Event::RetryGaveUp { reason, attempts, .. } => format!("gave up {} {attempts}", reason.name()),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().iter().map(short).collect()
    }
}

/// An error message with this SQLSTATE and severity ERROR.
pub(crate) fn server(code: &'static str) -> Error {
    sqlx::Error::Database(Box::new(Message(code))).into()
}

pub(crate) fn deadlock() -> Error {
    server("40P01")
}

pub(crate) fn serialization() -> Error {
    server("40001")
}

pub(crate) fn down() -> Error {
    AcquireError::new(AcquireFailure::Down, Duration::ZERO).into()
}

pub(crate) fn queue_full() -> Error {
    AcquireError::new(AcquireFailure::QueueFull, Duration::ZERO).into()
}

pub(crate) fn lost() -> Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()).into()
}

pub(crate) fn read() -> Statement {
    Statement::all("SELECT id FROM orders WHERE id = 1").unwrap()
}

pub(crate) fn write() -> Statement {
    Statement::all("INSERT INTO orders VALUES (1)").unwrap()
}

#[derive(Debug)]
struct Message(&'static str);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Message {}

impl sqlx::error::DatabaseError for Message {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}
