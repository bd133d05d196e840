//! The whole stack on a small trading workload, with its backends killed under it and its server frozen and restarted, and
//! an account of every order.

mod analyst;
mod crowd;
mod doctor;
mod faults;
mod forgetful;
mod lagging;
mod ledger;
mod market;
mod outages;
mod progress;
mod report;
mod schema;
mod workload;

use std::{pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use db_stack::{Db, Mode, config::Threshold};
use db_testkit::Postgres;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    demo::{
        analyst::Answers,
        faults::Killer,
        forgetful::Forgotten,
        ledger::{Audit, Money},
        market::Market,
        outages::Outage,
        progress::Progress,
        report::Report,
        workload::{Tally, Trader},
    },
    pg::{self, Signals},
};

/// The name under which the workload's sessions are found on the server.
const APPLICATION: &str = "db-stack-demo";
const CONNECTIONS: u32 = 8;
/// How long the last calls, and the sessions of those that were killed, may take to end.
const DRAIN: Duration = Duration::from_secs(15);

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the workload runs.
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Decides prices, accounts and the order of calls.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Callers side by side.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    tasks: u16,
    /// Where the live page and the metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
}

/// The first signal ends the workload early, with its table; the second one drops everything.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(outcome) = market::child().await {
        return outcome;
    }
    let mut signals = Signals::watch()?;
    let (stop, stopped) = watch::channel(false);
    let mut demo = pin!(play(args, stopped));
    loop {
        match signals.or_done(&mut demo).await {
            Ok(outcome) => return outcome,
            Err(signal) if stop.send_replace(true) => return Ok(pg::code_after(signal)),
            Err(_) => println!("\nstopping early"),
        }
    }
}

async fn play(args: Args, mut stopped: watch::Receiver<bool>) -> anyhow::Result<ExitCode> {
    let (server, replica, db, before) = tokio::select! {
        prepared = prepare(&args) => prepared?,
        _ = stopped.wait_for(|stop| *stop) => bail!("stopped before the workload began"),
    };
    let (end, ended) = watch::channel(false);
    let progress = Progress::default();
    let market = Market::open(&db, &server.url()).await?;
    let mut traders = JoinSet::new();
    for number in 0..args.tasks {
        let trader = Trader::new(db.clone(), args.seed, number, progress.clone(), market.reader());
        traders.spawn(trader.trade(ended.clone()));
    }
    let server = Arc::new(server);
    let analyst = tokio::spawn(analyst::ask(db.clone(), server.clone(), ended.clone()));
    let forgetful = tokio::spawn(forgetful::forget(db.clone(), ended.clone()));
    let crowd = crowd::open(&server).await?;
    let crowd = tokio::spawn(crowd::run(crowd, ended.clone()));
    let lagging = tokio::spawn(lagging::swing(replica, db.clone(), ended.clone()));
    let mut killer = JoinSet::new();
    killer.spawn(Killer::new(server.clone(), args.seed).run(ended.clone()));
    let outages = tokio::spawn(outages::strike(server.clone(), db.clone(), args.time, ended.clone()));
    let started = Instant::now();
    tokio::select! {
        () = sleep(args.time) => {}
        // An error means that nobody is left who could stop us.
        _ = stopped.wait_for(|stop| *stop) => {}
        () = progress::show(&db, &progress) => {}
    }
    end.send_replace(true);
    let took = started.elapsed();
    let mut report = Report::new(took);
    // First: nothing else ends while the server is frozen.
    report.outages = outages.await.context("the task that makes outages panicked")??;
    let gathered = timeout(DRAIN, gather(&mut report, traders, killer, analyst, forgetful)).await;
    report.crowd = timeout(DRAIN, crowd).await.context("the crowd did not end")???;
    progress::finish();
    report.stats = db.stats();
    report.retries = Some(db.retries());
    report.replicas = Some(db.replicas());
    let statements = db.statements();
    gathered.with_context(|| {
        format!(
            "the workload did not end within {DRAIN:?}; the pool: {:?}",
            report.stats
        )
    })??;
    report.quotes = market.close().await?;
    let (replica, longest) = lagging.await.context("the task that slows the replica panicked")??;
    report.longest_lag = longest;
    db.close().await;
    drop(replica);
    let audit = Audit::of(&server, &report.ledger, before).await?;
    report.print(&audit);
    for table in doctor::tables(&doctor::visit(&server, &statements).await?) {
        println!("{table}");
    }
    // Nothing is lost either where every order fails.
    let kept = audit.holds() && audit.acknowledged > 0;
    let healed = report.outages.iter().all(Outage::is_healed);
    let own = report.crowd.foreign == 0 && report.crowd.tenants.values().all(|answers| *answers > 0);
    let settled = report.answers.left_running == 0 && report.forgotten.is_settled() && !report.is_stale();
    Ok(if kept && settled && healed && own {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A server with the schema and its rows, its replica, and what the money in it adds up to.
async fn prepare(args: &Args) -> anyhow::Result<(Postgres, Postgres, Db, Money)> {
    // Deadlocks are wanted here, and their callers should not wait the default second for them to be found.
    let wanted = || Postgres::builder().setting("deadlock_timeout", "20ms");
    // For the doctor at the end; it comes with a package of its own on some systems.
    let server = match wanted().preload("pg_stat_statements").start().await {
        Ok(server) => server,
        Err(_) => wanted().start().await.context("no throwaway PostgreSQL")?,
    };
    let db = Db::builder()
        .url(&server.url())
        .max_connections(CONNECTIONS)
        .configure(|config| {
            config.session.application_name = APPLICATION.to_owned();
            config.metrics.listen = args.listen.to_string();
            config.slow_query.table = true;
            config.health.unready_after = outages::UNREADY_AFTER;
            config.leak.mode = Mode::Enforce;
            config.leak.reclaim_after = forgetful::TAKEN_BACK;
            let named = Threshold(Some(forgetful::NAMED));
            config.leak.custom.insert(forgetful::CLASS.to_owned(), named);
        });
    let db = db.connect().await.context("Db does not connect")?;
    let since = Instant::now();
    schema::migrate(&db).await?;
    schema::keep_slow_queries(&db).await?;
    // Orders are placed with a key.
    db.create_once_table().await.context("no table of keys")?;
    let rows = schema::seed(&db, args.seed).await?;
    let replica = lagging::join(&server, &db).await?;
    println!(
        "PostgreSQL {}: {rows} quotes and a replica in {:.1} s; {} tasks over {CONNECTIONS} connections for {}, seed {}",
        server.version(),
        since.elapsed().as_secs_f64(),
        args.tasks,
        humantime::format_duration(args.time),
        args.seed
    );
    if let Some(url) = db.metrics_url() {
        println!("watch it live: {url}");
    }
    let money = Money::read(&mut server.admin().await?).await?;
    Ok((server, replica, db, money))
}

async fn gather(
    report: &mut Report,
    mut traders: JoinSet<Tally>,
    mut killer: JoinSet<u64>,
    analyst: JoinHandle<Answers>,
    forgetful: JoinHandle<Forgotten>,
) -> anyhow::Result<()> {
    while let Some(tally) = traders.join_next().await {
        report.add(tally.context("a task of the workload panicked")?);
    }
    while let Some(kills) = killer.join_next().await {
        report.kills = kills.context("the task that kills backends panicked")?;
    }
    report.answers = analyst.await.context("the task that asks too much panicked")?;
    report.forgotten = forgetful.await.context("the task that forgets panicked")?;
    Ok(())
}
