//! Quotes that change: a second process makes new ones, and both read them through their caches.
//!
//! All times are those of the system's monotonic clock, which the processes share.

use std::{
    collections::HashMap,
    env,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use db_stack::{Db, Error};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::demo::{
    APPLICATION,
    schema::{self, SYMBOLS},
};

/// Tells the second process where the server is.
const CHILD: &str = "DB_STACK_DEMO_MARKET";
/// No answer is ever too old by its time alone.
const TTL: Duration = Duration::from_secs(3600);
/// Between two new quotes.
const PAUSE: Duration = Duration::from_millis(200);
/// What the second process reads after each of them.
const READS: u32 = 150;
/// Who reads later than this must see a quote: two heartbeats of the listener, and what a loaded machine adds.
const BOUND: Duration = Duration::from_secs(5);
/// How long the second process may take to end.
const END: Duration = Duration::from_secs(10);

/// A quote that the second process has made.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Made {
    symbol: i64,
    /// Its time, in microseconds since 1970.
    at: i64,
    /// When its writer heard that it was written.
    written: u64,
}

/// What a process did with quotes, and how its cache did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Quotes {
    pub(crate) made: u64,
    pub(crate) reads: u64,
    pub(crate) hits: u64,
    /// Invalidations that the server told of.
    pub(crate) told: u64,
    /// Reads before the notification of another process's quote had come, and the longest time that took, in microseconds.
    pub(crate) late: u64,
    pub(crate) latest: u64,
    /// Reads that lack a quote of the process's own, or another's for longer than allowed.
    pub(crate) stale: u64,
}

#[derive(Serialize, Deserialize)]
enum Line {
    Made(Made),
    Done(Quotes),
}

/// The second process, and what it has made so far.
pub(crate) struct Market {
    /// Beside the one of the orders: as long as a lease of its own is out, forgotten on purpose, a stack gives nothing out of
    /// memory.
    db: Db,
    child: Child,
    known: Arc<Mutex<Known>>,
    listening: JoinHandle<anyhow::Result<Quotes>>,
}

/// What the first process knows of the other's quotes, and what its readers found.
#[derive(Default)]
struct Known {
    newest: HashMap<i64, Made>,
    quotes: Quotes,
}

/// Reads quotes through the cache and compares them with what is known.
#[derive(Clone)]
pub(crate) struct Reader {
    db: Db,
    known: Arc<Mutex<Known>>,
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// The price and the time of the newest quote, out of the cache.
async fn newest(db: &Db, symbol: i64) -> Result<(i64, i64), Error> {
    let quote = sqlx::query_as::<_, (i64, i64)>(
        "SELECT ask, (extract(epoch FROM at) * 1000000)::int8 FROM quotes WHERE symbol = $1 ORDER BY at DESC LIMIT 1",
    );
    Ok(*db.cached(TTL).fetch_one(quote.bind(schema::symbol(symbol))).await?)
}

impl Market {
    /// Has the server tell of new quotes, and starts the second process.
    pub(crate) async fn open(db: &Db, url: &str) -> anyhow::Result<Self> {
        db.cache().install().await.context("no triggers for the cache")?;
        db.cache().watch("quotes").await.context("quotes are not watched")?;
        let db = open(url).await?;
        let mut child = Command::new(env::current_exe()?)
            .arg("demo")
            .env(CHILD, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let known = Arc::<Mutex<Known>>::default();
        let listening = tokio::spawn(listen(lines, known.clone()));
        Ok(Self {
            db,
            child,
            known,
            listening,
        })
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader {
            db: self.db.clone(),
            known: self.known.clone(),
        }
    }

    /// Ends the second process; returns what this one and the other did.
    pub(crate) async fn close(mut self) -> anyhow::Result<[Quotes; 2]> {
        // Its sign to end.
        drop(self.child.stdin.take());
        let other = timeout(END, self.listening)
            .await
            .context("the second process does not end")???;
        ensure!(
            timeout(END, self.child.wait())
                .await
                .context("it does not end")??
                .success(),
            "the second process failed"
        );
        let mut own = self.known.lock().quotes.clone();
        count(&mut own, &self.db);
        self.db.close().await;
        Ok([own, other])
    }
}

/// Adds what the cache has counted.
fn count(quotes: &mut Quotes, db: &Db) {
    let stats = db.cache().stats();
    quotes.hits = stats.total.hits;
    let told = stats
        .invalidations
        .iter()
        .filter(|(reason, _)| reason.name() == "notified");
    quotes.told = told.map(|(_, count)| count).sum();
}

async fn listen(
    mut lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    known: Arc<Mutex<Known>>,
) -> anyhow::Result<Quotes> {
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Line::Made(made) => drop(known.lock().newest.insert(made.symbol, made)),
            Line::Done(quotes) => return Ok(quotes),
        }
    }
    anyhow::bail!("the second process ended without a word")
}

impl Reader {
    /// One read.
    pub(crate) async fn read(&self, symbol: i64) -> Result<i64, Error> {
        let before = self.known.lock().newest.get(&symbol).copied();
        let began = now();
        let (price, at) = newest(&self.db, symbol).await?;
        let mut known = self.known.lock();
        let quotes = &mut known.quotes;
        quotes.reads += 1;
        if let Some(made) = before.filter(|made| at < made.at && made.written < began) {
            let late = (began - made.written) / 1000;
            quotes.late += 1;
            quotes.latest = quotes.latest.max(late);
            quotes.stale += u64::from(u128::from(late) > BOUND.as_micros());
        }
        Ok(price)
    }
}

/// The second process, if this is it.
pub(crate) async fn child() -> Option<anyhow::Result<ExitCode>> {
    let url = env::var(CHILD).ok()?;
    Some(trade(&url).await.map(|()| ExitCode::SUCCESS))
}

/// Makes quotes and reads them until its input ends.
async fn trade(url: &str) -> anyhow::Result<()> {
    let db = open(url).await?;
    let mut quotes = Quotes::default();
    let ended = async {
        let mut input = tokio::io::stdin();
        // Nothing is ever written to it.
        drop(input.read_u8().await);
    };
    let mut ended = std::pin::pin!(ended);
    let mut dice = fastrand::Rng::with_seed(11);
    loop {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = &mut ended => break,
        }
        let symbol = dice.i64(0..SYMBOLS);
        // Of a write that failed nobody knows whether it took effect: it is not counted on.
        if let Ok(at) = make(&db, symbol, dice.i64(2000..9000)).await {
            quotes.made += 1;
            let line = Line::Made(Made {
                symbol,
                at,
                written: now(),
            });
            println!("{}", serde_json::to_string(&line)?);
            if let Ok((_, seen)) = newest(&db, symbol).await {
                quotes.reads += 1;
                quotes.stale += u64::from(seen < at);
            }
        }
        for _ in 0..READS {
            quotes.reads += u64::from(newest(&db, dice.i64(0..SYMBOLS)).await.is_ok());
        }
    }
    count(&mut quotes, &db);
    db.close().await;
    println!("{}", serde_json::to_string(&Line::Done(quotes))?);
    Ok(())
}

/// A stack for quotes alone.
async fn open(url: &str) -> anyhow::Result<Db> {
    let db = Db::builder()
        .url(url)
        .max_connections(3)
        .configure(|config| config.session.application_name = APPLICATION.to_owned());
    let db = db.connect().await?;
    ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
    Ok(db)
}

async fn make(db: &Db, symbol: i64, bid: i64) -> Result<i64, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO quotes (symbol, at, bid, ask) \
         VALUES ($1, timestamptz '1970-01-01 00:00:00+00' + $2 * interval '1 microsecond', $3, $3 + 2)",
    )
    .bind(schema::symbol(symbol))
    .bind(at)
    .bind(bid)
    .execute(db)
    .await?;
    Ok(at)
}
