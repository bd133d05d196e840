//! The whole stack under a seeded schedule of faults, with everything that it promises checked all the time; beside it a
//! pool without a stack, under the same faults.
//!
//! Callers move money under keys, write rows without keys, read in sessions, as tenants, from the cache and from replicas,
//! take leases and leave things on them, and drop calls at random points. One fault at a time befalls the servers or the
//! way to them. When something does not hold, the seed and the trace are printed, and the schedule is halved as long as
//! one of its halves fails too.

mod audit;
mod books;
mod disk;
mod fault;
mod injury;
mod probe;
mod report;
mod schedule;
mod stage;
mod work;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use db_stack::{Db, config::Tenancy};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::prove::{
    Verdict,
    chaos::{
        books::Books,
        fault::Fault,
        probe::{Bare, Question, Samples, Signs, Stacked},
        report::Passed,
        schedule::Step,
        stage::{SOON, Stage},
        work::Desk,
    },
    findings::Findings,
    rig::APPLICATION,
};

const MS: Duration = Duration::from_millis(1);
const CONNECTIONS: u32 = 10;
/// The stack must serve undisturbed so long after a fault's end.
const PROMISED: Duration = Duration::from_secs(5);
/// How long callers may take to end, whose last transfer must be done.
const END: Duration = Duration::from_secs(45);
/// Tasks that may be there at the end and were not at the beginning, however many faults there were: the five of the pool
/// that a former primary gets when it comes back as a replica, and one that is on its way.
const MORE_TASKS: u64 = 6;
/// What a run may add to the resident memory: the books, and what the allocator keeps after a peak.
const MORE_KIB: u64 = 64 * 1024;
/// What one step takes in all, for the length of a schedule.
const STEP: Duration = Duration::from_millis(4_700);

/// Options of this proof alone.
#[derive(Clone, Debug, Default, clap::Args)]
// The arguments around it are a group named after their own type, `Args`.
#[group(id = "chaos")]
pub(crate) struct Args {
    /// chaos: how long faults go on; at least one round of all of them.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// chaos: decides what happens when.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// chaos: only these steps of the schedule.
    #[arg(long, value_name = "N,N…", value_delimiter = ',')]
    steps: Vec<usize>,
}

/// How long a fault lasts, how long it is watched afterwards, and how late a call may end.
#[derive(Clone, Copy)]
struct Pace {
    hold: Duration,
    least: Duration,
    grace: Duration,
}

pub(crate) async fn run(quick: bool, args: Args) -> anyhow::Result<Verdict> {
    let pace = if quick {
        Pace {
            hold: 500 * MS,
            least: 300 * MS,
            // A quick run gates no times: this is a call that hangs.
            grace: 500 * MS,
        }
    } else {
        Pace {
            hold: 1500 * MS,
            least: 2500 * MS,
            grace: 100 * MS,
        }
    };
    let seed = args
        .seed
        .unwrap_or_else(|| if quick { 1 } else { fastrand::u64(..1_000_000) });
    let stage = Stage::start().await?;
    let (faults, missing) = stage.faults();
    let round = STEP * u32::try_from(faults.len())?;
    let time = args.time.unwrap_or(if quick {
        Duration::ZERO
    } else {
        Duration::from_secs(600)
    });
    let rounds = (time.as_secs_f64() / round.as_secs_f64()).round().max(1.0) as usize;
    let mut steps = schedule::schedule(seed, rounds, &faults);
    if !args.steps.is_empty() {
        steps.retain(|step| args.steps.contains(&step.number));
        ensure!(!steps.is_empty(), "the schedule has no such steps");
    }
    println!("seed {seed}, {} faults of {} kinds", steps.len(), faults.len());
    let mut findings = Findings::new();
    for (fault, why) in missing {
        findings.skip(fault.name(), why);
    }
    let run = Box::pin(perform(stage, &steps, seed, pace)).await?;
    println!("\n{}", report::table(&run.passed));
    tell(&run, &mut findings);
    findings.note("seed", seed);
    if !run.holds() {
        for line in &run.trace {
            println!("  {line}");
        }
        // A part of a schedule is what somebody asked for: it is not made smaller unasked.
        if !quick && args.steps.is_empty() {
            steps = Box::pin(minimise(steps, seed, pace)).await?;
        }
        let time = humantime::format_duration(time);
        let numbers = schedule::numbers(&steps);
        let quick = if quick { " --quick" } else { "" };
        println!("again: cargo xtask prove chaos{quick} --seed {seed} --for '{time}' --steps {numbers}");
    }
    Ok(findings.verdict())
}

/// What one schedule came to.
struct Run {
    passed: Vec<Passed>,
    violations: Vec<String>,
    trace: Vec<String>,
    books: Arc<Books>,
    tasks: (u64, u64),
    resident: (u64, u64),
    grace: Duration,
    hits: u64,
    replica_reads: u64,
}

impl Run {
    fn holds(&self) -> bool {
        self.violations.is_empty() && self.books.lateness(self.grace).beyond.is_empty() && self.is_flat()
    }

    fn is_flat(&self) -> bool {
        self.tasks.1 <= self.tasks.0 + MORE_TASKS && self.resident.1 <= self.resident.0 + MORE_KIB
    }
}

fn tell(run: &Run, findings: &mut Findings) {
    let late = run.books.lateness(run.grace);
    for line in &late.beyond {
        println!("  LATE {line}");
    }
    for (what, calls) in run.books.calls() {
        println!("      {what}: {} answered, {} failed", calls.ok, calls.failed);
    }
    for (n, text) in run.books.errors().iter().take(25) {
        println!("      {n:>6} {text}");
    }
    let violations = run.violations.len();
    findings.expect("invariants that did not hold", violations, 0, violations == 0);
    findings.expect(
        &format!(
            "calls beyond their limit by more than {} ms and the machine's noise",
            run.grace.as_millis()
        ),
        late.beyond.len(),
        0,
        late.beyond.is_empty(),
    );
    findings.note("latest call, in all", format!("{} ms", late.raw.as_millis()));
    findings.note("latest call, without noise", format!("{} ms", late.own.as_millis()));
    findings.note("longest stall of the machine", format!("{} ms", late.noise.as_millis()));
    findings.expect(
        "tasks before and after",
        format!("{} {}", run.tasks.0, run.tasks.1),
        format!("at most {MORE_TASKS} more"),
        run.tasks.1 <= run.tasks.0 + MORE_TASKS,
    );
    findings.expect(
        "resident MiB before and after",
        format!("{} {}", run.resident.0 / 1024, run.resident.1 / 1024),
        format!("at most {} more", MORE_KIB / 1024),
        run.resident.1 <= run.resident.0 + MORE_KIB,
    );
    findings.note(
        "transfers called again",
        run.books.repeated.load(std::sync::atomic::Ordering::Relaxed),
    );
    findings.expect("answers from the cache", run.hits, "> 0", run.hits > 0);
    findings.expect("reads on replicas", run.replica_reads, "> 0", run.replica_reads > 0);
    let sum = |part: fn(&Passed) -> u64| run.passed.iter().map(part).sum::<u64>();
    findings.note("errors of Db", sum(|passed| passed.stacked.errors));
    findings.note("errors of PgPool", sum(|passed| passed.bare.errors));
}

/// Halves the schedule as long as one of its halves fails as well.
async fn minimise(mut steps: Vec<Step>, seed: u64, pace: Pace) -> anyhow::Result<Vec<Step>> {
    while steps.len() > 1 {
        let half = steps.len() / 2;
        let mut smaller = None;
        for part in [&steps[..half], &steps[half..]] {
            println!("only steps {}", schedule::numbers(part));
            let run = Box::pin(perform(Stage::start().await?, part, seed, pace)).await?;
            if !run.holds() {
                smaller = Some(part.to_vec());
                break;
            }
        }
        match smaller {
            Some(part) => steps = part,
            None => break,
        }
    }
    Ok(steps)
}

/// Who is at work during one run.
struct Cast {
    main: Db,
    pooled: Db,
    bare: PgPool,
    bare_pooled: PgPool,
    signs: Arc<Signs>,
    books: Arc<Books>,
    samples: [Samples; 4],
    stop: watch::Sender<bool>,
    callers: JoinSet<()>,
}

async fn perform(mut stage: Stage, steps: &[Step], seed: u64, pace: Pace) -> anyhow::Result<Run> {
    let signs = Arc::new(Signs::default());
    let [main_url, replica_url] = stage.urls();
    let main = Db::builder()
        .url(&main_url)
        .max_connections(CONNECTIONS)
        .observer(signs.clone())
        .configure(|config| {
            config.replica.urls = replica_url.as_str().into();
            config.tenants.mode = Tenancy::Row;
            config.session.application_name = APPLICATION.to_owned();
            config.pool.drain_timeout = Duration::from_secs(3);
        });
    let main = main.connect().await.context("Db does not connect")?;
    ensure!(main.nodes_ready(SOON).await, "the nodes do not answer");
    ensure!(main.cache().ready(SOON).await, "nothing is cached");
    let [pooled_url, bare_pooled_url] = stage.pooled.urls();
    let pooled = Db::builder()
        .url(&pooled_url)
        .max_connections(6)
        .observer(signs.clone())
        .configure(|config| config.pool.drain_timeout = Duration::from_secs(3));
    let pooled = pooled
        .connect()
        .await
        .context("Db does not connect through the pooler")?;
    let books = [Arc::new(Books::new()), Arc::new(Books::new())];
    rehearse([&main, &pooled], &books, seed).await?;
    let tasks = audit::tasks(&stage);

    let [books, pooled_books] = books;
    let (stop, stopped) = watch::channel(false);
    let mut cast = Cast {
        bare: bare(&stage.beside_url(), CONNECTIONS).await?,
        bare_pooled: bare(&bare_pooled_url, 6).await?,
        main,
        pooled,
        signs,
        books,
        samples: Default::default(),
        stop,
        callers: JoinSet::new(),
    };
    cast.enter(seed, &stopped);
    let desk = Desk {
        db: cast.pooled.clone(),
        books: pooled_books.clone(),
        stopped,
    };
    work::begin_pooled(&desk, seed, &mut cast.callers);
    let noise = [cast.books.clone(), pooled_books.clone()].map(|books| {
        let noise = tokio::spawn(async move { books.listen_to_noise().await });
        noise.abort_handle()
    });
    sleep(500 * MS).await;
    let resident = audit::resident();

    let (mut passed, mut trace) = (Vec::new(), Vec::new());
    for step in steps {
        let (line, effect) = cast.meet(&mut stage, *step, pace).await?;
        println!("  {line}");
        trace.push(line);
        passed.push(effect);
    }
    let resident = (resident, audit::resident());
    let Cast {
        main,
        pooled,
        bare,
        bare_pooled,
        books,
        stop,
        mut callers,
        ..
    } = cast;
    stop.send_replace(true);
    let ended = async { while callers.join_next().await.is_some() {} };
    if timeout(END, ended).await.is_err() {
        books.violate(format!("{} callers did not end", callers.len()));
        callers.abort_all();
    }
    noise.iter().for_each(tokio::task::AbortHandle::abort);
    // Its release may hang for as long as a connection does.
    let _ = timeout(Duration::from_secs(2), async {
        tokio::join!(bare.close(), bare_pooled.close())
    })
    .await;
    audit::pool("main", &main, false, &books).await;
    audit::pool("pooled", &pooled, true, &books).await;
    let tasks = (tasks, audit::tasks(&stage));
    let hits = main.cache().stats().total.hits;
    let replica_reads = main.replicas().replica_reads;
    tokio::join!(main.close(), pooled.close());
    audit::gone("primary", &stage.primary, &books).await?;
    audit::gone("replica", &stage.replica, &books).await?;
    audit::rows("main", &mut stage.admin().await?, &books).await?;
    audit::rows("pooled", &mut stage.pooled.server.admin().await?, &pooled_books).await?;
    let mut violations = books.violations();
    violations.extend(pooled_books.violations());
    violations.extend(pooled_books.lateness(pace.grace).beyond);
    Ok(Run {
        passed,
        violations,
        trace,
        books,
        tasks,
        resident,
        grace: pace.grace,
        hits,
        replica_reads,
    })
}

/// Everybody works undisturbed for a while: what is opened or begun once for good is there before anything is counted.
async fn rehearse(databases: [&Db; 2], books: &[Arc<Books>; 2], seed: u64) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    let [main, pooled] = databases;
    main.warm_up(CONNECTIONS).await?;
    for (db, books, begin) in [
        (main, &books[0], work::begin as fn(&Desk, u64, &mut JoinSet<()>)),
        (pooled, &books[1], work::begin_pooled),
    ] {
        let desk = Desk {
            db: db.clone(),
            books: books.clone(),
            stopped: stopped.clone(),
        };
        begin(&desk, !seed, &mut callers);
    }
    sleep(1000 * MS).await;
    stop.send_replace(true);
    while callers.join_next().await.is_some() {}
    sleep(300 * MS).await;
    Ok(())
}

async fn bare(url: &str, most: u32) -> anyhow::Result<PgPool> {
    let pool = PgPoolOptions::new().max_connections(most).connect(url);
    pool.await.context("PgPool does not connect")
}

impl Cast {
    fn enter(&mut self, seed: u64, stopped: &watch::Receiver<bool>) {
        const MAIN: &[Question] = &[Question::Read, Question::Write, Question::Hot, Question::Shape];
        const POOLED: &[Question] = &[Question::Read, Question::Write, Question::Bulk];
        let desk = Desk {
            db: self.main.clone(),
            books: self.books.clone(),
            stopped: stopped.clone(),
        };
        let tasks = &mut self.callers;
        work::begin(&desk, seed, tasks);
        let [main, bare, pooled, bare_pooled] = &self.samples;
        probe::begin(&Stacked(self.main.clone()), MAIN, main, stopped, tasks);
        probe::begin(&Bare(self.bare.clone()), MAIN, bare, stopped, tasks);
        probe::begin(&Stacked(self.pooled.clone()), POOLED, pooled, stopped, tasks);
        probe::begin(&Bare(self.bare_pooled.clone()), POOLED, bare_pooled, stopped, tasks);
    }

    /// Lets one fault happen, undoes it, and waits until the stack serves again.
    async fn meet(&self, stage: &mut Stage, step: Step, pace: Pace) -> anyhow::Result<(String, Passed)> {
        let context = || format!("step {}, {}", step.number, step.fault.name());
        let [main, bare, pooled, bare_pooled] = &self.samples;
        let (stacked, bare) = if step.fault.is_pooled() {
            (pooled, bare_pooled)
        } else {
            (main, bare)
        };
        stacked.clear();
        bare.clear();
        self.signs.arm();
        let began = Instant::now();
        let injured = stage.injure(step, pace.hold).await.with_context(context)?;
        sleep(pace.hold).await;
        let healed = stage.heal(step.fault).await.with_context(context)?;
        let cured = injured.unwrap_or(healed);
        loop {
            sleep(20 * MS).await;
            let well = stacked.quiet_since().is_some_and(|since| since.elapsed() >= 200 * MS);
            if healed.elapsed() >= pace.least && well {
                break;
            }
            if healed.elapsed() > PROMISED {
                self.books.violate(format!(
                    "not well {PROMISED:?} after {}: {:?}, breaker {:?}",
                    context(),
                    self.main.stats(),
                    self.main.breaker().state()
                ));
                break;
            }
        }
        let passed = Passed {
            fault: step.fault,
            stacked: stacked.effect(began, cured),
            seen: None,
            bare: bare.effect(began, cured),
        };
        let seen = self.signs.first().map(|at| at.saturating_duration_since(began));
        let passed = Passed {
            seen: passed.stacked.noticed.into_iter().chain(seen).min(),
            ..passed
        };
        if step.fault == Fault::Failover {
            stage.tell_beside().await?;
        }
        let line = format!(
            "{:>3} {:<20} at {:>6.1} s: errors {} (PgPool {}), recovered {} ms{} (PgPool {} ms{})",
            step.number,
            step.fault.name(),
            self.books.since_start(began).as_secs_f64(),
            passed.stacked.errors,
            passed.bare.errors,
            passed.stacked.recovered.as_millis(),
            if passed.stacked.disturbed { " NOT" } else { "" },
            passed.bare.recovered.as_millis(),
            if passed.bare.disturbed { " NOT" } else { "" },
        );
        Ok((line, passed))
    }
}
