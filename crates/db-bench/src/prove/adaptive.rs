//! The adaptive limit: it finds the best size of a server that contention makes slow, and shares a server that is small.

mod instance;

use std::{env, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use db_stack::{Db, Mode};
use db_testkit::Postgres;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::prove::{
    Verdict,
    adaptive::instance::{Account, Order},
    findings::Findings,
    rig::{self, APPLICATION},
    subject::Subject,
};

/// Costs 20 ms up to 8 sessions at once; from there on each further one costs all the others, as on a server whose
/// locks or caches are fought for.
const CONTENDED: &str = "CREATE FUNCTION work(argument int8) RETURNS int8 LANGUAGE plpgsql AS $$ \
    DECLARE n int8; BEGIN \
    SELECT count(*) INTO n FROM pg_stat_get_activity(NULL) WHERE state = 'active' AND application_name = 'db-stack-proof'; \
    PERFORM pg_sleep(0.02 * greatest(1.0, (n / 8.0) ^ 2)); RETURN n; END $$";
const WORK: &str = "SELECT work($1)";
const SIZES: [u32; 8] = [2, 4, 6, 8, 10, 12, 16, 24];
const CALLERS: i64 = 48;
const SMALL: u16 = 40;
const INSTANCES: u32 = 3;

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    if let Ok(order) = env::var(instance::ORDER) {
        instance::run(serde_json::from_str(&order)?).await?;
        return Ok(Findings::new().verdict());
    }
    let mut findings = Findings::new();
    climb(quick, &mut findings).await?;
    share(quick, &mut findings).await?;
    Ok(findings.verdict())
}

async fn climb(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let server = rig::server().await?;
    sqlx::raw_sql(CONTENDED).execute(&mut server.admin().await?).await?;
    let span = Duration::from_millis(if quick { 700 } else { 4000 });
    println!("  fixed size   calls per second");
    let mut best = (0, 0.0);
    for size in SIZES {
        let db = database(&server, size, None).await?;
        let (made, _) = load(&db, span).await;
        db.close().await;
        println!("  {size:>10}   {made:.0}");
        if made > best.1 {
            best = (size, made);
        }
    }
    findings.note("best fixed size", best.0);
    let (limit_off, rate_off) = if quick { (0.5, 0.6) } else { (0.2, 0.8) };
    for (start, way) in [(2, "from below"), (32, "from above")] {
        let window = Duration::from_millis(if quick { 150 } else { 500 });
        let db = database(&server, start, Some(window)).await?;
        // On the way first, then measured.
        load(&db, Duration::from_secs(if quick { 6 } else { 25 })).await;
        let (made, limit) = load(&db, Duration::from_secs(if quick { 2 } else { 10 })).await;
        db.close().await;
        let off = (limit - f64::from(best.0)).abs() / f64::from(best.0);
        findings.expect(
            &format!("limit {way}"),
            format!("{limit:.1}"),
            format!("within 20 % of {}, asked {:.0} %", best.0, limit_off * 100.0),
            off <= limit_off,
        );
        findings.expect(
            &format!("throughput {way}, share of the best"),
            format!("{:.2}", made / best.1),
            format!("at least 0.8, asked {rate_off}"),
            made >= best.1 * rate_off,
        );
    }
    Ok(())
}

async fn database(server: &Postgres, size: u32, adaptive: Option<Duration>) -> anyhow::Result<Db> {
    let db = Db::builder()
        .url(&server.url())
        .max_connections(size)
        .configure(|config| {
            config.session.application_name = APPLICATION.to_owned();
            if let Some(window) = adaptive {
                config.pool.limit.mode = Mode::Enforce;
                config.pool.limit.absolute_max = 40;
                config.pool.limit.window = window;
            }
        });
    db.connect().await.context("Db does not connect")
}

/// Calls per second of many callers, and the mean limit meanwhile.
async fn load(db: &Db, span: Duration) -> (f64, f64) {
    let end = Instant::now() + span;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let db = db.clone();
        callers.spawn(async move {
            let mut served = 0_u32;
            while Instant::now() < end {
                served += u32::from(db.number(WORK, caller).await.is_ok());
            }
            served
        });
    }
    let (mut sum, mut looks) = (0.0, 0.0_f64);
    while Instant::now() < end {
        sum += f64::from(db.stats().limit);
        looks += 1.0;
        sleep(Duration::from_millis(20)).await;
    }
    let served: u32 = callers.join_all().await.into_iter().sum();
    (f64::from(served) / span.as_secs_f64(), sum / looks.max(1.0))
}

/// Three processes, each of which would like to have 30 connections, on a server that has 37 for all.
async fn share(quick: bool, findings: &mut Findings) -> anyhow::Result<()> {
    let server = Postgres::builder().max_connections(SMALL).start().await?;
    let span = Duration::from_secs(if quick { 5 } else { 20 });
    // They come one after the other, and go together: the first one has taken what it could when the second comes.
    let apart = Duration::from_secs(1);
    println!("{INSTANCES} processes on a server with max_connections = {SMALL}, {span:?} side by side");
    let folder = tempfile::tempdir()?;
    let mut processes = JoinSet::new();
    let mut accounts = Vec::new();
    for number in 0..INSTANCES {
        let account = folder.path().join(format!("{number}.json"));
        accounts.push(account.clone());
        let order = Order {
            url: server.url(),
            callers: CALLERS,
            span: span + apart * (INSTANCES - number),
            account,
        };
        let mut process = Command::new(env::current_exe()?);
        process
            .args(["prove", "adaptive"])
            .env(instance::ORDER, serde_json::to_string(&order)?);
        let mut process = process.stdout(Stdio::null()).kill_on_drop(true).spawn()?;
        processes.spawn(async move { process.wait().await });
        sleep(apart).await;
    }
    while let Some(ended) = processes.join_next().await {
        ensure!(ended??.success(), "a process failed");
    }
    let (mut served, mut too_many, mut failed, mut dials, mut refused) = (0, 0, 0, 0, 0);
    let mut sizes = Vec::new();
    for account in &accounts {
        let account: Account = serde_json::from_slice(&tokio::fs::read(account).await?)?;
        served += account.served;
        too_many += account.too_many;
        failed += account.failed;
        dials += account.dials;
        refused += account.dials_refused;
        sizes.push(account.size);
    }
    findings.note("calls of the three processes", served);
    findings.expect("callers who saw 53300", too_many, "0", too_many == 0);
    findings.note("other errors of callers", failed);
    #[expect(clippy::cast_precision_loss, reason = "a count of attempts")]
    let share = refused as f64 / dials.max(1) as f64;
    findings.expect(
        "dials refused",
        format!("{refused} of {dials}"),
        "under 1 %",
        share < 0.01,
    );
    findings.expect(
        "connections of the three",
        format!("{sizes:?}"),
        "each at least 7",
        sizes.iter().all(|size| *size >= 7),
    );
    Ok(())
}
