//! A visit while others work: which locks it takes, how long it is, and what it costs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use db_advisor::DoctorOptions;
use sqlx::{Connection, Executor};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::prove::{
    doctor::{in_time, visit},
    findings::Findings,
    patient::Patient,
};

/// Sessions that work meanwhile.
const WORKERS: i64 = 4;
/// Work for one visit: the time that a visit may take.
const WINDOW: Duration = Duration::from_secs(30);
const QUICK: Duration = Duration::from_secs(3);
/// What a visit may cost, of all that the machine can do in that time.
const SHARE: f64 = 0.02;

/// Somebody holds a lock on every table that only ACCESS SHARE gets past: whoever asks for more would wait for it.
pub(crate) async fn locked(patient: &Patient, options: &DoctorOptions, findings: &mut Findings) -> anyhow::Result<()> {
    let mut holder = patient.connect().await?;
    holder.execute("BEGIN").await?;
    holder
        .execute("LOCK TABLE customers, orders, items, visits, jobs, tickets IN EXCLUSIVE MODE")
        .await?;
    let report = visit(patient, options, None).await?;
    holder.execute("ROLLBACK").await?;
    holder.close().await?;
    let waited = report
        .unseen
        .iter()
        .filter(|line| line.contains("lock timeout"))
        .count();
    findings.expect(
        "questions that waited behind EXCLUSIVE locks on every table",
        waited,
        0,
        waited == 0,
    );
    Ok(())
}

/// Visits while sessions work.
pub(crate) async fn under_load(
    patient: &Patient,
    options: &DoctorOptions,
    quick: bool,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (window, rounds) = if quick { (QUICK, 1) } else { (WINDOW, 5) };
    let load = Load::start(patient).await?;
    let watch = Watch::start(patient).await?;
    let (mut alone, mut visited, mut took) = (0_u64, 0_u64, 0_u64);
    let mut punctual = true;
    sleep(Duration::from_millis(500)).await;
    for _ in 0..rounds {
        let ((), done) = load.during(sleep(window)).await;
        alone += done;
        let until = Instant::now() + window;
        let with_visit = async {
            let report = visit(patient, options, None).await;
            sleep_until(until).await;
            report
        };
        let (report, done) = load.during(with_visit).await;
        let report = report?;
        visited += done;
        took = took.max(report.took_ms);
        punctual &= in_time(&report);
    }
    let (modes, ticks) = watch.stop().await?;
    let failed = load.stop().await?;
    findings.expect("failed statements of others", failed, 0, failed == 0);
    findings.expect("longest visit under load", format!("{took} ms"), "<= 30 s", punctual);
    let stronger: Vec<_> = modes.iter().filter(|mode| *mode != "AccessShareLock").collect();
    findings.expect(
        "locks seen",
        modes.iter().cloned().collect::<Vec<_>>().join(","),
        "AccessShareLock",
        stronger.is_empty() && !modes.is_empty(),
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    // A tick of /proc is 10 ms.
    let cpu = ticks as f64 / 100.0 / f64::from(rounds);
    let share = cpu / (WINDOW.as_secs_f64() * cores);
    findings.expect(
        "processor time of a visit on the server, of 30 s of this machine",
        format!("{:.2} % ({cpu:.2} s)", share * 100.0),
        "< 2 %",
        share < SHARE,
    );
    findings.note(
        "work done with a visit, of that without",
        format!("{:.3}", visited as f64 / alone.max(1) as f64),
    );
    Ok(())
}

/// Sessions that read and write by key.
struct Load {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<sqlx::Result<()>>>,
}

impl Load {
    async fn start(patient: &Patient) -> anyhow::Result<Self> {
        let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut workers = Vec::new();
        for worker in 0..WORKERS {
            let mut pg = patient.connect().await?;
            let (done, over) = (done.clone(), over.clone());
            workers.push(tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(worker.cast_unsigned());
                while !over.load(Relaxed) {
                    let id = random.i64(1..=50_000);
                    let sql = if id % 10 == 0 {
                        "UPDATE orders SET total = total + 1 WHERE id = $1"
                    } else {
                        "SELECT total::float8 FROM orders WHERE id = $1"
                    };
                    sqlx::query(sql).bind(id).execute(&mut pg).await?;
                    done.fetch_add(1, Relaxed);
                }
                pg.close().await
            }));
        }
        Ok(Self { done, over, workers })
    }

    /// What came of it, and what was done meanwhile.
    async fn during<T>(&self, meanwhile: impl Future<Output = T>) -> (T, u64) {
        let before = self.done.load(Relaxed);
        let out = meanwhile.await;
        (out, self.done.load(Relaxed) - before)
    }

    /// How many workers had an error.
    async fn stop(self) -> anyhow::Result<usize> {
        self.over.store(true, Relaxed);
        let mut failed = 0;
        for worker in self.workers {
            failed += usize::from(worker.await?.is_err());
        }
        Ok(failed)
    }
}

/// Looks at the doctor's own session all the while: its locks on tables, and its processor time.
struct Watch {
    over: Arc<AtomicBool>,
    task: JoinHandle<sqlx::Result<(BTreeSet<String>, u64)>>,
}

impl Watch {
    async fn start(patient: &Patient) -> anyhow::Result<Self> {
        let mut pg = patient.connect().await?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let task = tokio::spawn(async move {
            let (mut modes, mut ticks) = (BTreeSet::new(), BTreeMap::new());
            while !ends.load(Relaxed) {
                let rows: Vec<(i32, Option<String>)> = sqlx::query_as(
                    // Every session writes-locks the name of its database while it logs in, against DROP DATABASE.
                    "SELECT a.pid, CASE l.mode WHEN 'AccessShareLock' THEN l.mode ELSE \
                     nullif(concat_ws(' ', l.mode, l.locktype, l.classid::regclass, l.relation::regclass), '') END \
                     FROM pg_stat_activity AS a \
                     LEFT JOIN pg_locks AS l ON l.pid = a.pid AND l.locktype <> 'virtualxid' \
                     AND NOT (l.locktype = 'object' AND l.classid = 'pg_database'::regclass) \
                     WHERE a.application_name = 'db-stack-advisor'",
                )
                .fetch_all(&mut pg)
                .await?;
                for (pid, mode) in rows {
                    modes.extend(mode);
                    if let Some(used) = processor(pid) {
                        ticks.insert(pid, used);
                    }
                }
                sleep(Duration::from_millis(3)).await;
            }
            pg.close().await?;
            Ok((modes, ticks.into_values().sum()))
        });
        Ok(Self { over, task })
    }

    async fn stop(self) -> anyhow::Result<(BTreeSet<String>, u64)> {
        self.over.store(true, Relaxed);
        Ok(self.task.await??)
    }
}

/// Ticks of processor time that a process has used; `None` once it is gone.
fn processor(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}
