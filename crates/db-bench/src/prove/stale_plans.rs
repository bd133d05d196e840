//! A change of schema under load, with the statement prepared on every lease.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::prove::{
    Verdict,
    findings::Findings,
    rig::{self, Limits},
    subject::Subject,
};

const LIMITS: Limits = Limits {
    max: 8,
    acquire: Duration::from_secs(10),
};
const CALLERS: i64 = 16;
const BETWEEN: Duration = Duration::from_millis(250);
/// The types of all its columns are part of the plan.
const QUERY: &str = "SELECT * FROM t WHERE n < $1 ORDER BY n LIMIT 1";

#[derive(Default)]
struct Tally {
    calls: u64,
    errors: u64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let changes = if quick { 20 } else { 120 };
    println!(
        "ALTER TABLE … TYPE {changes} times, one each {BETWEEN:?}, under {CALLERS} callers on {} connections",
        LIMITS.max
    );
    let server = rig::server().await?;
    let mut admin = server.admin().await?;
    sqlx::raw_sql("CREATE TABLE t (n bigint, m int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) AS i")
        .execute(&mut admin)
        .await?;
    let mut findings = Findings::new();
    let db = rig::db(&server.url(), LIMITS).await?;
    let own = shake(&db, &mut admin, changes).await?;
    let stats = db.retries();
    let stale = stats.cause(db_core::RetryCause::StalePlan).retries;
    println!(
        "  Db      calls {}, errors {}, stale plans met {stale}, connections opened {}",
        own.calls,
        own.errors,
        db.stats().connects
    );
    findings.expect("errors seen by callers", own.errors, "0", own.errors == 0);
    findings.expect("stale plans met", stale, "more than 0", stale > 0);
    let connects = db.stats().connects;
    findings.expect(
        "connections opened",
        connects,
        format!("at most {}", LIMITS.max),
        connects <= u64::from(LIMITS.max),
    );
    findings.note("calls", own.calls);
    db.close().await;
    let pool = rig::pool(&server.url(), LIMITS).await?;
    let peer = shake(&pool, &mut admin, changes.min(20)).await?;
    println!("  PgPool  calls {}, errors {}", peer.calls, peer.errors);
    findings.note("PgPool errors", peer.errors);
    // It may have to wait for each of its connections.
    let _ = timeout(LIMITS.acquire, pool.close()).await;
    Ok(findings.verdict())
}

async fn shake<S: Subject>(subject: &S, admin: &mut PgConnection, changes: u32) -> anyhow::Result<Tally> {
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call(subject.clone(), stopped.clone()));
    }
    for change in 0..changes {
        sleep(BETWEEN).await;
        // What the callers decode stays as it is; the other column of `*` is part of the plan all the same.
        let sql = if change % 2 == 0 {
            "ALTER TABLE t ALTER m TYPE bigint"
        } else {
            "ALTER TABLE t ALTER m TYPE int"
        };
        sqlx::raw_sql(sql).execute(&mut *admin).await?;
    }
    sleep(BETWEEN).await;
    stop.send_replace(true);
    let mut sum = Tally::default();
    while let Some(tally) = callers.join_next().await {
        let tally = tally?;
        sum.calls += tally.calls;
        sum.errors += tally.errors;
    }
    Ok(sum)
}

async fn call<S: Subject>(subject: S, stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    while !*stopped.borrow() {
        tally.calls += 1;
        if subject.number(QUERY, 10).await.is_err() {
            tally.errors += 1;
            // A caller that is refused at once must not spin.
            sleep(Duration::from_millis(1)).await;
        }
    }
    tally
}
