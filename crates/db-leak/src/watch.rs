//! The task that looks after leases that are out.

use crate::{
    cause::cause,
    config::LeakConfig,
    ledger::Ledger,
    reclaim,
    record::{Record, Sight},
};
use db_core::{Lessor, Session, Suspect};
use futures_util::future::join_all;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// The watch looks at least and at most this often.
const ROUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// Says that the watch has ended, whatever ended it.
pub(crate) struct Alive(pub(crate) Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A lease that is out, with its record.
pub(crate) struct Found {
    pub(crate) record: Arc<Record>,
    pub(crate) sight: Sight,
}

/// Looks after the leases of one source, for as long as it lives.
pub(crate) async fn keep<C: Lessor>(ledger: Arc<Ledger>, source: u32, lessor: C, alive: Alive) {
    let _alive = alive;
    loop {
        sleep((ledger.settings().shortest() / 8).clamp(ROUNDS.0, ROUNDS.1)).await;
        let config = ledger.settings();
        if !config.mode.is_off() {
            round(&ledger, source, &lessor, &config).await;
        }
    }
}

async fn round<C: Lessor>(ledger: &Ledger, source: u32, lessor: &C, config: &LeakConfig) {
    let now = Instant::now();
    let records = ledger.records(source);
    let out = records.into_iter().filter_map(|record| {
        let sight = record.sight(true)?;
        Some(Found { record, sight })
    });
    let over = |found: &Found, limit: Option<Duration>| limit.is_some_and(|limit| now - found.sight.since >= limit);
    let late: Vec<_> = out
        .filter(|found| over(found, config.threshold_of(found.sight.class)))
        .collect();
    let (new, known): (Vec<_>, Vec<_>) = late.into_iter().partition(|found| found.sight.suspect.is_none());
    let due: Vec<_> = known
        .into_iter()
        .filter(|found| over(found, config.reclaim_of(found.sight.class)))
        .filter(|found| config.mode.enforces() || !found.sight.would_revoke)
        .collect();
    if new.is_empty() && due.is_empty() {
        return;
    }
    let sessions = examine(lessor, new.iter().chain(&due)).await;
    for found in new {
        let session = found.sight.id.and_then(|id| sessions.get(&id)).cloned();
        let suspect = Arc::new(describe(&found.sight, session).await);
        if found.record.mark_suspect(&found.sight, &suspect) {
            ledger.suspect(&suspect);
        }
    }
    let ends = due.into_iter().map(async |found| {
        let session = found.sight.id.and_then(|id| sessions.get(&id)).cloned();
        let suspect = Arc::new(describe(&found.sight, session).await);
        if config.mode.enforces() {
            reclaim::take_back(ledger, lessor, found, &suspect).await;
        } else if found.record.mark_would_revoke(&found.sight) {
            ledger.would_revoke(&suspect);
        }
    });
    join_all(ends).await;
}

/// What the server says about the leases; nothing when it can't be asked.
async fn examine<C: Lessor>(lessor: &C, found: impl Iterator<Item = &Found>) -> HashMap<db_core::LeaseId, Session> {
    let ids: Vec<_> = found.filter_map(|found| found.sight.id).collect();
    if ids.is_empty() {
        return HashMap::new();
    }
    let sessions = lessor.examine(&ids).await.unwrap_or_default();
    sessions.into_iter().map(|session| (session.lease, session)).collect()
}

async fn describe(sight: &Sight, session: Option<Session>) -> Suspect {
    let cause = cause(session.as_ref(), sight.used);
    let mut suspect = Suspect::new(sight.class, sight.since.elapsed(), cause);
    suspect.lease = sight.id;
    suspect.site = sight.by.site;
    suspect.statement = sight.by.statement;
    suspect.priority = sight.priority;
    suspect.last_statement = sight.last_statement;
    suspect.transaction = sight.transaction;
    suspect.session = session;
    if let Some(backtrace) = sight.backtrace.clone() {
        // Names of functions are looked up in files.
        let text = spawn_blocking(move || backtrace.to_string()).await;
        suspect.backtrace = text.ok().map(Arc::from);
    }
    suspect
}
