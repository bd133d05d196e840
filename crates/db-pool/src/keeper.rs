//! The task that opens connections. Callers only wait: one that gives up loses nothing and throws nothing away.

use crate::{
    book::Book,
    conn::{Backend, Conn, Guest, expiry},
    dial::late,
    home::Resident,
    homes::Home,
    reaper,
    shared::Shared,
    state::Phase,
};
use db_core::{CloseReason, ConnectFailure, StatementFacts};
use sqlx::PgConnection;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep_until, timeout},
};

/// How often the minimum is looked after when nothing else happens.
const ROUND: Duration = Duration::from_secs(1);

struct Dialled {
    home: Home,
    result: sqlx::Result<(PgConnection, Backend)>,
    /// What was prepared on it.
    held: Vec<Arc<StatementFacts>>,
    took: Duration,
    epoch: u64,
}

impl Dialled {
    fn crashed(home: Home) -> Self {
        Self {
            home,
            result: Err(sqlx::Error::WorkerCrashed),
            held: Vec::new(),
            took: Duration::ZERO,
            epoch: 0,
        }
    }
}

/// Opens connections as they are wanted, for as long as the pool lives.
pub(crate) async fn keep(shared: Arc<Shared>, resident: Resident) {
    let _resident = resident;
    let mut dials = Dials::default();
    let mut failures = 0_u32;
    let mut not_before = Instant::now();
    loop {
        tidy(&shared);
        if std::mem::take(&mut shared.state.lock().back) {
            failures = 0;
            not_before = Instant::now();
        }
        start_dials(&shared, &mut dials, failures, not_before);
        let next = if not_before > Instant::now() {
            not_before
        } else {
            Instant::now() + ROUND
        };
        tokio::select! {
            Some(dialled) = dials.next(), if !dials.tasks.is_empty() => {
                let Dialled { home, result, held, took, epoch } = dialled;
                match result.map_err(|error| Arc::new(ConnectFailure::new(error))) {
                    Ok((pg, backend)) => {
                        failures = 0;
                        not_before = Instant::now();
                        let mut conn = warm(&shared, pg, backend, home, epoch);
                        held.iter().for_each(|facts| conn.book.warmed(facts));
                        shared.connected(conn, took);
                    }
                    // The others can be served all the same.
                    Err(failure) if home.is_some() && !failure.is_transient() => shared.home_refused(&home, failure),
                    Err(failure) => {
                        let wait = back_off(&shared, failures);
                        failures = failures.saturating_add(1);
                        not_before = Instant::now() + wait;
                        shared.connect_failed(failure, Some(wait));
                    }
                }
            }
            () = shared.demand.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Serves from what is idle, lets go of what the budget does not allow any more, and takes back lent places that nobody gave back: those who wait
/// must not wait for the reaper's next round.
fn tidy(shared: &Arc<Shared>) {
    shared.reconcile_lent();
    let config = shared.config.load();
    let over = {
        let mut state = shared.state.lock();
        state.forget_absent(&config, Instant::now());
        state.open() > state.room
    };
    if over {
        reaper::sweep(shared);
    }
    shared.serve_idle();
}

/// The connections that are being opened.
#[derive(Default)]
struct Dials {
    tasks: JoinSet<Dialled>,
    homes: HashMap<Id, Home>,
}

impl Dials {
    async fn next(&mut self) -> Option<Dialled> {
        let (id, dialled) = match self.tasks.join_next_with_id().await? {
            Ok((id, dialled)) => (id, Some(dialled)),
            Err(crashed) => (crashed.id(), None),
        };
        let home = self.homes.remove(&id).flatten();
        Some(dialled.unwrap_or_else(|| Dialled::crashed(home)))
    }
}

fn start_dials(shared: &Arc<Shared>, dials: &mut Dials, failures: u32, not_before: Instant) {
    if not_before > Instant::now() {
        return;
    }
    let config = shared.config.load();
    // After a failure one attempt at a time finds out whether the server is back; the rest follow it.
    let side_by_side = if failures > 0 {
        1
    } else {
        config.connect_parallelism.max(1)
    };
    let free = side_by_side.saturating_sub(u32::try_from(dials.tasks.len()).unwrap_or(u32::MAX));
    let (homes, gone, epoch) = {
        let mut state = shared.state.lock();
        let (homes, gone) = if state.phase == Phase::Open && state.homes.any() {
            let under_way: Vec<Home> = dials.homes.values().cloned().collect();
            state.open_for(&config, &under_way, free)
        } else {
            (vec![None; state.wanted(&config).min(free) as usize], Vec::new())
        };
        state.stats.dialing += u32::try_from(homes.len()).unwrap_or(u32::MAX);
        (homes, gone, state.epoch)
    };
    for conn in gone {
        shared.part(conn, CloseReason::Shrunk);
    }
    for home in homes {
        let (endpoint, session) = (shared.endpoint.load_full(), shared.session.load_full());
        let (limit, statements, settings) = (
            config.connect_timeout,
            shared.statements.clone(),
            config.statements.clone(),
        );
        let (endpoint, its) = (endpoint.at_home(&home), home.clone());
        let task = dials.tasks.spawn(async move {
            let since = Instant::now();
            let (mut result, mut held) = (endpoint.dial(&session, limit).await, Vec::new());
            let took = since.elapsed();
            // Behind a pooler the session that is warmed is not the one that will be used. Another database may have other
            // tables, and numbers its types by itself.
            if let Ok((pg, backend)) = &mut result
                && backend.shared.is_none()
                && home.is_none()
            {
                let warming = statements.warm(pg, endpoint.capacity(), &settings);
                match timeout(limit.saturating_sub(took), warming).await {
                    Ok(Ok(warmed)) => held = warmed,
                    Ok(Err(error)) => result = Err(error),
                    Err(_) => result = Err(late(limit)),
                }
            }
            Dialled {
                home,
                result,
                held,
                took,
                epoch,
            }
        });
        dials.homes.insert(task.id(), its);
    }
}

/// Doubles up to the cap; the jitter takes up to half away, so that many processes don't knock together.
fn back_off(shared: &Shared, failures: u32) -> Duration {
    let config = shared.config.load();
    let wait = config
        .connect_backoff_base
        .saturating_mul(1 << failures.min(16))
        .min(config.connect_backoff_cap);
    wait.mul_f64(0.5 + 0.5 * fastrand::f64())
}

pub(crate) fn warm(shared: &Shared, pg: PgConnection, mut backend: Backend, home: Home, epoch: u64) -> Box<Conn> {
    let plans = shared.plans.epoch();
    shared.plans.afresh(&mut backend.shared, plans);
    let config = shared.config.load();
    let unnamed = backend.shared.as_ref().is_some_and(|session| !session.named_statements);
    // Nothing stays prepared behind a pooler that does not follow names.
    let capacity = if unnamed { 0 } else { shared.endpoint.load().capacity() };
    let born = Instant::now();
    Box::new(Conn {
        pg,
        home,
        slot: 0,
        serial: 0,
        leased: born,
        attachment: None,
        epoch,
        plans,
        book: Book::new(&shared.statements, capacity, config.statements.prepare_from),
        backend,
        born,
        expires: expiry(born, config.max_lifetime, config.lifetime_jitter, fastrand::f64()),
        last_used: born,
        opened_in: Duration::ZERO,
        guest: Guest::default(),
    })
}
