//! Somebody who takes connections and forgets them: each is named with the line that took it, and taken back.

use std::time::Duration;

use db_stack::{Db, Event, Events, QueryClass};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

const FIRST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(5);
/// When a forgotten lease is called a leak, and when it is taken back. The class of the forgetful one only: the traders
/// keep the limits of a real service.
pub(crate) const NAMED: Duration = Duration::from_secs(1);
pub(crate) const TAKEN_BACK: Duration = Duration::from_secs(2);
pub(crate) const CLASS: &str = "forgetful";
/// When the last one must have been taken back.
const LATEST: Duration = Duration::from_secs(5);

/// What became of the forgotten leases.
#[derive(Clone, Copy, Default)]
pub(crate) struct Forgotten {
    pub(crate) leases: u64,
    pub(crate) named: u64,
    pub(crate) taken_back: u64,
    /// Leases of others that were called leaks; there must be none.
    pub(crate) false_alarms: u64,
}

impl Forgotten {
    /// Whether every one was named and taken back, and nothing else was.
    pub(crate) fn is_settled(&self) -> bool {
        self.named == self.leases && self.taken_back == self.leases && self.false_alarms == 0
    }
}

/// Forgets one lease after the other until the end, and then waits for the last to be taken back.
pub(crate) async fn forget(db: Db, mut ended: watch::Receiver<bool>) -> Forgotten {
    let mut events = db.events();
    let careless = db.class(QueryClass::Custom(CLASS));
    let mut forgotten = Forgotten::default();
    let mut next = Instant::now() + FIRST;
    while !*ended.borrow() {
        let due = tokio::select! {
            _ = ended.wait_for(|end| *end) => false,
            () = sleep_until(next) => true,
            () = look(&mut events, &mut forgotten) => false,
        };
        if due {
            next += PAUSE;
            if let Ok(lease) = careless.acquire().await {
                std::mem::forget(lease);
                forgotten.leases += 1;
            }
        }
    }
    let all_back = async {
        while forgotten.taken_back < forgotten.leases {
            look(&mut events, &mut forgotten).await;
        }
    };
    // Past it the count stays what it is, and the report shows it.
    let _ = timeout(LATEST, all_back).await;
    forgotten
}

/// The next event that is about a leak. Cancel-safe.
async fn look(events: &mut Events, forgotten: &mut Forgotten) {
    loop {
        match events.next().await {
            Some(Event::LeaseSuspect(suspect)) if suspect.class == QueryClass::Custom(CLASS) => forgotten.named += 1,
            Some(Event::LeaseSuspect(_)) => forgotten.false_alarms += 1,
            Some(Event::LeaseRevoked(_)) => forgotten.taken_back += 1,
            Some(_) => continue,
            // The database is gone: nothing more will come.
            None => std::future::pending().await,
        }
        return;
    }
}
