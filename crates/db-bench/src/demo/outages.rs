//! The server freezes, and later it is killed and comes back: the breaker opens, readiness goes, and both heal.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use db_stack::{BreakerState, Db, Error};
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// In parts of the workload's time.
const FREEZES_AT: f64 = 0.35;
const DIES_AT: f64 = 0.65;
/// Below it there is no time for an outage and for what comes after it.
const SHORTEST: Duration = Duration::from_secs(8);
const FROZEN: Duration = Duration::from_secs(2);
/// Nothing succeeds for so long: the service wants no more traffic.
pub(crate) const UNREADY_AFTER: Duration = Duration::from_millis(500);
/// Those who can't wait, and how long they wait: their failures are what the breaker sees.
const IMPATIENT: usize = 8;
const PATIENCE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(5);
/// When everything must be well again.
const HEALED: Duration = Duration::from_secs(10);

/// One outage as the callers saw it. Times count from the fault, those of healing from its end.
pub(crate) struct Outage {
    pub(crate) what: &'static str,
    pub(crate) breaker_open: Option<Duration>,
    pub(crate) not_ready: Option<Duration>,
    /// Calls that the open breaker refused, and how long the slowest of nine in ten took.
    pub(crate) refused: usize,
    pub(crate) refusal: Duration,
    pub(crate) served_again: Option<Duration>,
    pub(crate) ready_again: Option<Duration>,
}

impl Outage {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            breaker_open: None,
            not_ready: None,
            refused: 0,
            refusal: Duration::ZERO,
            served_again: None,
            ready_again: None,
        }
    }

    /// Whether it is over. The breaker of a server that is gone need not open: with nodes to choose from, nobody is sent
    /// to one that is not there.
    pub(crate) fn is_healed(&self) -> bool {
        self.served_again.is_some() && self.ready_again.is_some()
    }
}

/// Makes the outages in a workload of `time`; none when that is too short, or it ends before.
pub(crate) async fn strike(
    server: Arc<Postgres>,
    db: Db,
    time: Duration,
    mut ended: watch::Receiver<bool>,
) -> anyhow::Result<Vec<Outage>> {
    let mut outages = Vec::new();
    if time < SHORTEST {
        return Ok(outages);
    }
    let begin = Instant::now();
    for (at, kind) in [(FREEZES_AT, Kind::Freeze), (DIES_AT, Kind::Kill)] {
        let wait = time.mul_f64(at).saturating_sub(begin.elapsed());
        tokio::select! {
            _ = ended.wait_for(|end| *end) => return Ok(outages),
            () = sleep(wait) => {}
        }
        // Not cut off by the end of the workload: a server must not be left frozen.
        outages.push(Box::pin(kind.strike(&server, &db)).await?);
    }
    Ok(outages)
}

#[derive(Clone, Copy)]
enum Kind {
    Freeze,
    Kill,
}

impl Kind {
    async fn strike(self, server: &Postgres, db: &Db) -> anyhow::Result<Outage> {
        let mut outage = Outage::new(match self {
            Self::Freeze => "server frozen for 2 s",
            Self::Kill => "server killed and started again",
        });
        let (stop, stopped) = watch::channel(false);
        let mut impatient = JoinSet::new();
        for _ in 0..IMPATIENT {
            // The replica would answer them.
            impatient.spawn(ask(db.primary().timeout(PATIENCE), stopped.clone()));
        }
        let since = Instant::now();
        match self {
            Self::Freeze => {
                server.freeze().await.context("the server can't be frozen")?;
                let _ = timeout(FROZEN, look_on(db, since, &mut outage)).await;
                server.thaw().await.context("the server stays frozen")?;
            }
            Self::Kill => {
                server.kill().await.context("the server can't be killed")?;
                let again = async {
                    // As long as a supervisor would take.
                    sleep(FROZEN).await;
                    server.start_again().await
                };
                tokio::select! {
                    started = again => started.context("the server does not come back")?,
                    () = look_on(db, since, &mut outage) => {}
                }
            }
        }
        let over = Instant::now();
        let healed = async {
            while !outage.is_healed() {
                if outage.served_again.is_none() && db.breaker().state() == BreakerState::Closed {
                    let answer = sqlx::query("SELECT 1").execute(&db.primary().timeout(PATIENCE)).await;
                    outage.served_again = answer.is_ok().then(|| over.elapsed());
                }
                let ready = db.readiness().is_ready();
                outage.ready_again = outage.ready_again.or_else(|| ready.then(|| over.elapsed()));
                sleep(LOOK).await;
            }
        };
        // Past it the report shows what did not heal.
        let _ = timeout(HEALED, healed).await;
        stop.send_replace(true);
        let mut refusals = Vec::new();
        while let Some(seen) = impatient.join_next().await {
            refusals.extend(seen.context("a task that can't wait panicked")?);
        }
        refusals.sort();
        outage.refused = refusals.len();
        outage.refusal = refusals.get(refusals.len() * 9 / 10).copied().unwrap_or_default();
        Ok(outage)
    }
}

/// Notes when the breaker opened, and when the service was not ready any more. Never ends.
async fn look_on(db: &Db, since: Instant, outage: &mut Outage) {
    loop {
        let open = db.breaker().state() != BreakerState::Closed;
        outage.breaker_open = outage.breaker_open.or_else(|| open.then(|| since.elapsed()));
        let unready = !db.readiness().is_ready();
        outage.not_ready = outage.not_ready.or_else(|| unready.then(|| since.elapsed()));
        sleep(LOOK).await;
    }
}

/// Asks until it is told to stop, and returns how long each refusal by the breaker took.
async fn ask(db: Db, stopped: watch::Receiver<bool>) -> Vec<Duration> {
    let mut refusals = Vec::new();
    while !*stopped.borrow() {
        let since = Instant::now();
        let answer = sqlx::query("SELECT 1").execute(&db).await.map_err(Error::from);
        if matches!(answer, Err(Error::Breaker(_))) {
            refusals.push(since.elapsed());
        }
        // Whoever is refused at once must not take the processor from everybody else.
        sleep(LOOK).await;
    }
    refusals
}
