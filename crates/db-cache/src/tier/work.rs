//! What a process does with its store while nobody waits for it.

use super::{Shared, frame, offers_key, world::Count};
use std::{convert::Infallible, time::Duration};
use tokio::time::{Instant, sleep};

/// How long others have for an answer to a hello.
const PATIENCE: Duration = Duration::from_millis(400);
/// Between two looks for it, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How long an answer to a hello lies there.
const OFFERED: Duration = Duration::from_secs(30);

/// Something to be written.
pub(crate) enum Task {
    Put {
        key: String,
        bytes: Vec<u8>,
        keep: Duration,
    },
    /// An answer to somebody's hello.
    Offer { key: String, bytes: Vec<u8> },
}

impl Shared {
    /// Writes what is to be written, and finds this process's place among the others. Never ends; drop it to stop.
    pub(crate) async fn work(&self) -> Infallible {
        tokio::select! {
            never = self.write() => never,
            never = self.settle() => never,
        }
    }

    async fn write(&self) -> Infallible {
        let mut tasks = self.tasks.lock().await;
        loop {
            let written = match tasks.recv().await {
                Some(Task::Put { key, bytes, keep }) => self.guard.run(|tier| tier.put(&key, &bytes, keep)).await,
                Some(Task::Offer { key, bytes }) => self.guard.run(|tier| tier.add(&key, &bytes, OFFERED)).await,
                // The other end is this one's own.
                None => std::future::pending().await,
            };
            self.wrote(written.is_some());
        }
    }

    async fn settle(&self) -> Infallible {
        loop {
            self.called.notified().await;
            while let Some(nonce) = self.world.calling() {
                self.listen_for(nonce).await;
            }
        }
    }

    /// Waits for the answers to one hello.
    async fn listen_for(&self, nonce: u128) {
        let key = offers_key(nonce);
        let (began, mut pause, mut away) = (Instant::now(), LOOK.0, false);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
            let Some(offers) = self.guard.run(|tier| tier.list(&key)).await else {
                // Whoever answered could not leave word either.
                away = true;
                continue;
            };
            if std::mem::take(&mut away) && began.elapsed() >= PATIENCE {
                self.again.notify_one();
                return sleep(LOOK.1).await;
            }
            let offers = offers
                .into_iter()
                .filter_map(|bytes| Count::decode(&frame::opened(&self.secret, &key, bytes)?))
                .collect();
            if self.world.adopt(nonce, offers, began.elapsed() >= PATIENCE) {
                return;
            }
        }
    }
}
