//! The server is killed and comes back under load.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use db_stack::Db;
use db_testkit::Postgres;
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const CALLERS: i64 = 16;
const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(2),
};
/// Above the acquire timeout: for two busy cores, and for the statement itself.
const MARGIN: Duration = Duration::from_millis(500);
/// A caller that waits this long hangs.
const HUNG: Duration = Duration::from_secs(20);
/// Load before the kill, and the time to come back.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(3);
const PROMISED: Duration = Duration::from_secs(1);

/// When the server was gone: told to the callers by the one who kills it.
type Gone = Arc<OnceLock<Instant>>;

/// How long after the server's return the first and the last caller were served again, and the longest call.
#[derive(Clone, Copy)]
struct Recovery {
    first: Duration,
    last: Duration,
    longest: Duration,
    errors: u64,
}

struct Caller {
    /// The first success of a call that began after the server had gone.
    back: Option<Instant>,
    longest: Duration,
    errors: u64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let downtimes: &[u64] = if quick {
        &[500, 1500]
    } else {
        &[200, 500, 1000, 1500, 3000, 6000, 200, 500, 1000, 1500]
    };
    println!(
        "SIGKILL under {CALLERS} callers of each pool, {} connections each, acquire timeout {:?}; down for {downtimes:?} ms",
        LIMITS.max, LIMITS.acquire
    );
    let server = rig::server().await?;
    let mut findings = Findings::new();
    let (mut worst, mut peers_worst) = (Duration::ZERO, Duration::ZERO);
    let mut longest = Duration::ZERO;
    let mut late = 0;
    for &downtime in downtimes {
        let db = rig::db(&server.url(), LIMITS).await?;
        let pool = rig::pool(&server.url(), LIMITS).await?;
        let (own, peer) = crash(&server, &db, &pool, Duration::from_millis(downtime)).await?;
        say("Db", downtime, &own);
        say("PgPool", downtime, &peer);
        let allowed = if quick { PROMISED.max(peer.last) } else { PROMISED };
        late += usize::from(own.last > allowed);
        worst = worst.max(own.last);
        peers_worst = peers_worst.max(peer.last);
        longest = longest.max(own.longest);
        db.close().await;
        let _ = timeout(LIMITS.acquire, pool.close()).await;
    }
    let promise = if quick {
        "0, later than 1 s and than PgPool"
    } else {
        "0, later than 1 s"
    };
    findings.expect("late returns", late, promise, late == 0);
    findings.note("all callers served after", format!("{} ms", worst.as_millis()));
    findings.note(
        "PgPool all callers served after",
        format!("{} ms", peers_worst.as_millis()),
    );
    let bound = LIMITS.acquire + MARGIN;
    findings.expect(
        "longest call",
        format!("{} ms", longest.as_millis()),
        format!("at most {} ms", bound.as_millis()),
        longest <= bound,
    );
    Ok(findings.verdict())
}

fn say(name: &str, downtime: u64, recovery: &Recovery) {
    println!(
        "  down {downtime:>4} ms  {name:<6} first caller served {:>4} ms after the server was ready, last {:>4} ms; \
         longest call {:>4} ms, errors {}",
        recovery.first.as_millis(),
        recovery.last.as_millis(),
        recovery.longest.as_millis(),
        recovery.errors
    );
}

async fn crash(server: &Postgres, db: &Db, pool: &PgPool, downtime: Duration) -> anyhow::Result<(Recovery, Recovery)> {
    let gone = Gone::default();
    let (stop, stopped) = watch::channel(false);
    let own = load(db, &gone, &stopped);
    let peer = load(pool, &gone, &stopped);
    sleep(BEFORE).await;
    server.kill().await?;
    let _ = gone.set(Instant::now());
    sleep(downtime).await;
    server.start_again().await?;
    let ready = Instant::now();
    sleep(AFTER).await;
    stop.send_replace(true);
    Ok((gather(own, ready).await?, gather(peer, ready).await?))
}

fn load<S: Subject>(subject: &S, gone: &Gone, stopped: &watch::Receiver<bool>) -> JoinSet<Caller> {
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(call(subject.clone(), number, gone.clone(), stopped.clone()));
    }
    callers
}

async fn call<S: Subject>(subject: S, number: i64, gone: Gone, stopped: watch::Receiver<bool>) -> Caller {
    let mut caller = Caller {
        back: None,
        longest: Duration::ZERO,
        errors: 0,
    };
    while !*stopped.borrow() {
        let since = Instant::now();
        let answer = timeout(HUNG, subject.number("SELECT $1::int8", number)).await;
        let now = Instant::now();
        caller.longest = caller.longest.max(now - since);
        match answer {
            Ok(Ok(_)) if gone.get().is_some_and(|&gone| gone <= since) => {
                caller.back.get_or_insert(now);
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                caller.errors += 1;
                // A caller that is refused at once must not take the processor from the server that starts.
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    caller
}

async fn gather(mut callers: JoinSet<Caller>, ready: Instant) -> anyhow::Result<Recovery> {
    let mut recovery = Recovery {
        first: Duration::MAX,
        last: Duration::ZERO,
        longest: Duration::ZERO,
        errors: 0,
    };
    while let Some(caller) = callers.join_next().await {
        let caller = caller?;
        // The server takes connections a moment before we hear that it is ready.
        let back = caller.back.map_or(HUNG, |back| back.saturating_duration_since(ready));
        recovery.first = recovery.first.min(back);
        recovery.last = recovery.last.max(back);
        recovery.longest = recovery.longest.max(caller.longest);
        recovery.errors += caller.errors;
    }
    Ok(recovery)
}
