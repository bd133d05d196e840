//! Thousands of calls dropped at random await points, over all ways to use a connection at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use db_stack::Db;
use db_testkit::Postgres;
use sqlx::Executor;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::prove::{
    cancellation::{
        acts::{Act, WORK_MEM},
        aftermath,
        cut::Cut,
        ledger::{Ledger, Stage},
    },
    findings::Findings,
    rig::{self, Limits},
};

const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(5),
};
/// Three for each connection, so that many wait.
const CALLERS: u64 = 24;
/// A call that takes longer hangs.
const HUNG: Duration = Duration::from_secs(20);
/// Complaints that are printed.
const SHOWN: usize = 5;

/// What the callers share.
struct Round {
    db: Db,
    left: AtomicI64,
    next: AtomicI64,
    answered: AtomicU64,
}

#[derive(Default)]
struct Report {
    ledger: Ledger,
    complaints: Vec<String>,
}

pub(crate) async fn run(server: &Postgres, quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let wanted: i64 = if quick { 2_000 } else { 10_000 };
    println!(
        "{wanted} calls dropped at random, {CALLERS} callers over {} connections",
        LIMITS.max
    );
    let mut admin = server.admin().await?;
    admin
        .execute("DROP TABLE IF EXISTS written; CREATE TABLE written (id int8)")
        .await?;
    server.alter_system("work_mem", WORK_MEM).await?;
    server.reload().await?;

    let db = rig::db(&server.url(), LIMITS).await?;
    let round = Arc::new(Round {
        db: db.clone(),
        left: AtomicI64::new(wanted),
        next: AtomicI64::new(1_000_000),
        answered: AtomicU64::new(0),
    });
    let mut callers = JoinSet::new();
    for seed in 0..CALLERS {
        callers.spawn(call(round.clone(), fastrand::Rng::with_seed(seed)));
    }
    let mut report = Report::default();
    while let Some(caller) = callers.join_next().await {
        let caller = caller?;
        report.ledger.join(caller.ledger);
        report.complaints.extend(caller.complaints);
    }
    for complaint in report.complaints.iter().take(SHOWN) {
        println!("  wrong: {complaint}");
    }
    let dropped = wanted - round.left.load(Ordering::Relaxed);
    findings.expect(
        "calls dropped",
        dropped,
        format!("at least {wanted}"),
        dropped >= wanted,
    );
    findings.note("answers checked", round.answered.load(Ordering::Relaxed));
    let wrong = report.complaints.len();
    findings.expect("wrong answers", wrong, 0, wrong == 0);
    aftermath::check(&db, server, LIMITS.max, findings).await?;
    let audit = report.ledger.audit(&mut admin).await?;
    findings.expect(
        "acknowledged writes lost",
        format!("{}/{}", audit.lost, audit.acknowledged),
        0,
        audit.lost == 0,
    );
    findings.expect("writes that nobody committed", audit.ghosts, 0, audit.ghosts == 0);
    findings.expect("writes doubled", audit.doubled, 0, audit.doubled == 0);
    let stats = db.stats();
    println!("      {stats:?}");
    db.close().await;
    Ok(())
}

async fn call(round: Arc<Round>, mut dice: fastrand::Rng) -> Report {
    let mut report = Report::default();
    while round.left.load(Ordering::Relaxed) > 0 {
        let (act, cut) = (Act::random(&mut dice), Cut::random(&mut dice));
        // Apart by more than a stream's rows, whose answers count on from the id.
        let id = round.next.fetch_add(10_000, Ordering::Relaxed) + dice.i64(0..4_000);
        let stage = Stage::default();
        // Boxed: the largest act decides the size of the future.
        let attempt = Box::pin(cut.apply(act.run(&round.db, id, &stage)));
        match timeout(HUNG, attempt).await {
            Ok(Some(Ok(()))) => {
                round.answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some(Err(error))) => report.complaints.push(format!("{act:?} {cut:?}: {error:#}")),
            Ok(None) => {
                round.left.fetch_sub(1, Ordering::Relaxed);
            }
            Err(_) => report.complaints.push(format!("{act:?} {cut:?}: hung for {HUNG:?}")),
        }
        report.ledger.note(id, &stage);
        if dice.u32(0..8) == 0 {
            // Now and then the pool has a moment of rest, and connections go to the hot set.
            sleep(Duration::from_micros(dice.u64(0..2_000))).await;
        }
    }
    report
}
