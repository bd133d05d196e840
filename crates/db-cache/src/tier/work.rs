//! What a process does with its store while nobody waits for it.

use super::{Shared, frame, offers_key, world::Count};
use std::{convert::Infallible, time::Duration};
use tokio::time::{Instant, sleep};

/// How long others have for an answer to a hello.
const PATIENCE: Duration = Duration::from_millis(400);
/// Between two looks for it, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Who gets no answer asks again after so long, a few times: others may have been there, and the store away.
const LONELY: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];
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
            match tasks.recv().await {
                Some(Task::Put { key, bytes, keep }) => {
                    let put = self.guard.run(|tier| tier.put(&key, &bytes, keep)).await;
                    self.wrote(put.is_some());
                }
                Some(Task::Offer { key, bytes }) => {
                    // Without word from here the newcomer counts for itself.
                    self.guard.run(|tier| tier.add(&key, &bytes, OFFERED)).await;
                }
                // The other end is this one's own.
                None => std::future::pending().await,
            }
        }
    }

    async fn settle(&self) -> Infallible {
        let mut alone = LONELY.iter();
        let mut next = None;
        loop {
            let ask_again = async {
                match next {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.called.notified() => {}
                () = ask_again => {
                    next = None;
                    self.again.notify_one();
                    continue;
                }
            }
            while let Some(nonce) = self.world.calling() {
                if self.listen_for(nonce).await {
                    (alone, next) = (LONELY.iter(), None);
                } else {
                    next = alone.next().copied();
                }
            }
        }
    }

    /// Waits for the answers to one hello; returns whether somebody else is there.
    async fn listen_for(&self, nonce: u128) -> bool {
        let key = offers_key(nonce);
        let (began, mut pause) = (Instant::now(), LOOK.0);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
            // While the store is away nobody can leave word there.
            let Some(offers) = self.guard.run(|tier| tier.list(&key)).await else {
                continue;
            };
            let offers = offers
                .into_iter()
                .filter_map(|bytes| Count::decode(&frame::opened(&self.secret, &key, bytes)?))
                .collect();
            if let Some(others) = self.world.adopt(nonce, offers, began.elapsed() >= PATIENCE) {
                return others;
            }
        }
    }
}
