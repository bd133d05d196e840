//! A scripted service and an observer that remembers.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "each test file uses its own part")]

use db_core::{Call, Error, Event, Layer, Observer, Observers, Operation, Result, Service, StatementFacts, service_fn};
use db_timeout::{Timeout, TimeoutConfig, TimeoutLayer};
use sqlx::PgConnection;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::sleep;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) struct Nothing;

impl Operation for Nothing {
    type Output = ();

    async fn run(&self, _: &mut PgConnection) -> Result<()> {
        Ok(())
    }
}

/// A service whose calls take `time` and then succeed.
pub(crate) fn takes(time: Duration) -> impl Service<Nothing> {
    service_fn(move |_: Call| async move {
        sleep(time).await;
        Ok(())
    })
}

/// A call of the statement number `n`.
pub(crate) fn known(n: u64) -> Call {
    let mut call = Call::here();
    call.statement = Some(StatementFacts::of(&format!("SELECT 1 FROM t{n}")).fingerprint());
    call
}

#[derive(Default)]
struct Seen(Mutex<Vec<Event>>);

impl Observer for Seen {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// A layer and what it told.
pub(crate) struct Bench {
    pub layer: TimeoutLayer,
    seen: Arc<Seen>,
}

impl Bench {
    pub(crate) fn new(config: TimeoutConfig) -> Self {
        let (observers, seen) = (Observers::default(), Arc::new(Seen::default()));
        observers.add(seen.clone());
        Self {
            layer: TimeoutLayer::new(config, observers).unwrap(),
            seen,
        }
    }

    pub(crate) fn around<S>(&self, inner: S) -> Timeout<S> {
        self.layer.layer(inner)
    }

    /// What was told since the last time, as the names of the events.
    pub(crate) fn told(&self) -> Vec<String> {
        let name = |event: &Event| format!("{event:?}").split([' ', '(']).next().unwrap().to_owned();
        self.events().iter().map(name).collect()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.seen.0.lock().unwrap())
    }
}

pub(crate) fn timeout_of(error: Error) -> db_core::TimeoutError {
    match error {
        Error::Timeout(timeout) => *timeout,
        other => panic!("not a timeout: {other:?}"),
    }
}
