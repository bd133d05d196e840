//! The server freezes under load and thaws: what callers pay, what the server gets meanwhile, and how soon it is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use db_stack::{BreakerState, Db, Error, Event};
use db_testkit::FaultProxy;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
};

const CALLERS: u32 = 16;
const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(2),
};
/// What each caller gives its call.
const PATIENCE: Duration = Duration::from_millis(500);
/// For two busy cores.
const MARGIN: Duration = Duration::from_millis(500);
/// Nothing takes so long.
const HUNG: Duration = Duration::from_secs(20);
/// Over which throughput is measured.
const SPAN: Duration = Duration::from_millis(250);
const PROMISED: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Seen {
    served: AtomicU64,
    longest_us: AtomicU64,
}

struct Round {
    opened: Duration,
    longest: Duration,
    refused: Vec<Duration>,
    dialled: u64,
    probes: u64,
    /// From the probe that went well to the first span with the throughput of before.
    recovered: Option<Duration>,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let (rounds, share) = if quick { (1, 0.7) } else { (5, 0.95) };
    println!(
        "SIGSTOP under {CALLERS} callers with {PATIENCE:?} each, {} connections; {rounds} rounds",
        LIMITS.max
    );
    let server = rig::server().await?;
    let mut findings = Findings::new();
    let (mut longest, mut opened) = (Duration::ZERO, Duration::ZERO);
    let (mut refused, mut spare, mut late, mut worst) = (Vec::new(), 0, 0, Duration::ZERO);
    for _ in 0..rounds {
        let round = freeze(&server, share).await?;
        println!(
            "  open after {:>4} ms; longest call {:>4} ms; {} calls refused meanwhile; {} connections, {} probes; \
             throughput back {} after the probe",
            round.opened.as_millis(),
            round.longest.as_millis(),
            round.refused.len(),
            round.dialled,
            round.probes,
            round
                .recovered
                .map_or("never".to_owned(), |took| format!("{} ms", took.as_millis())),
        );
        longest = longest.max(round.longest);
        opened = opened.max(round.opened);
        refused.extend(round.refused);
        spare = spare.max(round.dialled.saturating_sub(round.probes));
        late += u32::from(round.recovered.is_none_or(|took| took > PROMISED));
        worst = worst.max(round.recovered.unwrap_or(HUNG));
    }
    refused.sort();
    let p99 = refused[refused.len() * 99 / 100];
    let bound = PATIENCE + MARGIN;
    findings.expect(
        "longest call",
        format!("{} ms", longest.as_millis()),
        format!("its timeout, and {} ms for the machine", MARGIN.as_millis()),
        longest <= bound,
    );
    findings.note("open after at most", format!("{} ms", opened.as_millis()));
    findings.expect(
        "p99 of a refusal",
        format!("{} us", p99.as_micros()),
        "under 1 ms",
        p99 < FAST || (quick && refused[refused.len() / 2] < FAST),
    );
    findings.note(
        "median of a refusal",
        format!("{} us", refused[refused.len() / 2].as_micros()),
    );
    // The probe that was on its way when counting began may have connected before it.
    findings.expect(
        "connections beside the probes while open",
        spare,
        "at most 1",
        spare <= 1,
    );
    findings.expect(
        "rounds without the throughput of before within 1 s of the probe",
        late,
        format!("0, at {:.0} %", share * 100.0),
        late == 0,
    );
    findings.note("back at most", format!("{} ms", worst.as_millis()));
    Ok(findings.verdict())
}

async fn freeze(server: &db_testkit::Postgres, share: f64) -> anyhow::Result<Round> {
    let proxy = FaultProxy::start(server.addr()).await?;
    let db = rig::db(&proxy.url_for(server), LIMITS).await?;
    let seen = Arc::new(Seen::default());
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call(db.timeout(PATIENCE), seen.clone(), stopped.clone()));
    }
    sleep(Duration::from_millis(500)).await;
    let before = throughput(&seen, Duration::from_secs(1)).await;

    server.freeze().await?;
    let since = Instant::now();
    until(&db, |state| state != BreakerState::Closed).await?;
    let opened = since.elapsed();
    // Those who were on their way when it opened.
    sleep(PATIENCE + Duration::from_millis(100)).await;
    let (counters, probes) = (proxy.counters(), db.breaker().stats().probes);
    let mut refused = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let since = Instant::now();
        let answer = select(&db).await;
        if matches!(answer, Err(Error::Breaker(_))) {
            refused.push(since.elapsed());
        }
        sleep(FAST).await;
    }
    ensure!(!refused.is_empty(), "nobody was refused");
    let dialled = proxy.connects_since(&counters);
    let probes = db.breaker().stats().probes - probes;

    let mut events = db.events();
    server.thaw().await?;
    let probed = loop {
        match events.try_next() {
            Some(Event::Probed { ok: true, .. }) => break Instant::now(),
            Some(_) => {}
            None => {
                ensure!(since.elapsed() < HUNG, "no probe went well");
                sleep(Duration::from_millis(2)).await;
            }
        }
    };
    let mut recovered = None;
    while probed.elapsed() < 3 * PROMISED {
        if throughput(&seen, SPAN).await >= before * share {
            recovered = Some(probed.elapsed());
            break;
        }
    }
    stop.send_replace(true);
    while callers.join_next().await.is_some() {}
    db.close().await;
    Ok(Round {
        opened,
        longest: Duration::from_micros(seen.longest_us.load(Ordering::Relaxed)),
        refused,
        dialled,
        probes,
        recovered,
    })
}

async fn call(db: Db, seen: Arc<Seen>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let since = Instant::now();
        let answer = select(&db).await;
        let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        seen.longest_us.fetch_max(took, Ordering::Relaxed);
        match answer {
            Ok(()) => drop(seen.served.fetch_add(1, Ordering::Relaxed)),
            // One who is refused at once must not take the processor from everybody else.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Takes its time on the server, so that the throughput is that of the connections and not of a busy machine's processors.
async fn select(db: &Db) -> Result<(), Error> {
    sqlx::query("SELECT pg_sleep(0.005)").execute(db).await?;
    Ok(())
}

/// Calls served per second.
async fn throughput(seen: &Seen, span: Duration) -> f64 {
    let (before, since) = (seen.served.load(Ordering::Relaxed), Instant::now());
    sleep(span).await;
    (seen.served.load(Ordering::Relaxed) - before) as f64 / since.elapsed().as_secs_f64()
}

async fn until(db: &Db, done: impl Fn(BreakerState) -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !done(db.breaker().state()) {
        ensure!(since.elapsed() < HUNG, "the breaker stays {:?}", db.breaker().state());
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
