//! What happens, as a stream.

use db_core::{Event, Observer, Observers, Observing};
use std::{fmt, sync::Arc};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events that a slow reader may be behind before the oldest are dropped for it.
const BACKLOG: usize = 1024;

/// The events of one database from the moment of [`Db::events`](crate::Db::events). Bounded: a reader that is more than
/// 1,024 events behind loses the oldest and is told how many.
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    missed: u64,
    _observing: Observing,
}

struct Sender(broadcast::Sender<Event>);

impl Observer for Sender {
    fn event(&self, event: &Event) {
        // Nobody reads any more: nothing to do.
        drop(self.0.send(event.clone()));
    }
}

impl Events {
    pub(crate) fn of(observers: &Observers) -> Self {
        let (sender, receiver) = broadcast::channel(BACKLOG);
        Self {
            receiver,
            missed: 0,
            _observing: observers.add_while(Arc::new(Sender(sender))),
        }
    }

    /// The next event; `None` once the database is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(missed)) => self.missed += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// An event that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => self.missed += missed,
                Err(_) => return None,
            }
        }
    }

    /// Events that this reader was too slow for.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}
