//! The callers, each of whom checks its own answers.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use db_stack::{Db, Error, TxConn};
use sqlx::Executor;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::prove::{cancellation::aftermath::inspect, chaos::books::Books};

const MS: Duration = Duration::from_millis(1);
/// The limit of a call; no fault lasts for as long, so most are outlived.
const LIMIT: Duration = Duration::from_secs(1);
/// The same for a whole transfer with its attempts.
const TRANSFER: Duration = Duration::from_secs(3);
/// How old an answer by [`Db::replica`] may be.
const STALENESS: Duration = Duration::from_millis(500);
const CACHED: Duration = Duration::from_secs(10);

/// What every caller has.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) db: Db,
    pub(crate) books: Arc<Books>,
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Desk {
    fn open(&self) -> bool {
        !*self.stopped.borrow()
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The callers of the main database.
pub(crate) fn begin(desk: &Desk, seed: u64, tasks: &mut JoinSet<()>) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut add = |work: &dyn Fn(Desk, fastrand::Rng) -> Work| {
        tasks.spawn(work(desk.clone(), dice.fork()));
    };
    for _ in 0..3 {
        add(&|desk, dice| Box::pin(transfer(desk, dice)));
    }
    for _ in 0..2 {
        add(&|desk, dice| Box::pin(plain(desk, dice)));
        add(&|desk, dice| Box::pin(cached(desk, dice)));
        add(&|desk, dice| Box::pin(tenant(desk, dice)));
        add(&|desk, dice| Box::pin(lease(desk, dice)));
        add(&|desk, dice| Box::pin(drop_anywhere(desk, dice)));
    }
    add(&|desk, dice| Box::pin(write_cells(desk, dice)));
    add(&|desk, dice| Box::pin(sum(desk, dice)));
    for id in 0..2 {
        add(&move |desk, dice| Box::pin(session(desk, dice, id)));
        add(&move |desk, dice| Box::pin(fresh(desk, dice, 4 + id)));
    }
}

/// Those of the database behind the pooler.
pub(crate) fn begin_pooled(desk: &Desk, seed: u64, tasks: &mut JoinSet<()>) {
    let mut dice = fastrand::Rng::with_seed(!seed);
    tasks.spawn(transfer(desk.clone(), dice.fork()));
    tasks.spawn(transfer(desk.clone(), dice.fork()));
    tasks.spawn(plain(desk.clone(), dice.fork()));
    tasks.spawn(sum(desk.clone(), dice.fork()));
    tasks.spawn(drop_anywhere(desk.clone(), dice.fork()));
}

/// Moves money, each time under a key, and again with the same key until it is told that it is done.
async fn transfer(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let id = desk.books.number();
        let (one, other) = (dice.i32(0..16), dice.i32(1..16));
        let (payer, payee, amount) = (one, (one + other) % 16, dice.i64(1..100));
        let since = Instant::now();
        loop {
            let db = desk.db.deadline(Instant::now() + TRANSFER);
            let key = id.to_string();
            let done = db.transaction_once(&key, async move |tx: &mut TxConn| {
                sqlx::query("INSERT INTO transfers VALUES ($1, $2, $3, $4)")
                    .bind(id)
                    .bind(payer)
                    .bind(payee)
                    .bind(amount)
                    .execute(&mut *tx)
                    .await?;
                let mut changes = [(payer, -amount), (payee, amount)];
                // In one order everywhere: deadlocks are a fault of their own.
                changes.sort_unstable();
                for (id, change) in changes {
                    sqlx::query("UPDATE accounts SET balance = balance + $2 WHERE id = $1")
                        .bind(id)
                        .bind(change)
                        .execute(&mut *tx)
                        .await?;
                }
                Ok::<_, Error>(())
            });
            if desk.books.call("transfer", TRANSFER, done).await.is_some() {
                desk.books.transfers.lock().push(id);
                break;
            }
            desk.books.repeated.fetch_add(1, Ordering::Relaxed);
            if !desk.open() && since.elapsed() > 10 * TRANSFER {
                desk.books
                    .violate(format!("transfer {id} could not be done after all was over"));
                return;
            }
            sleep(10 * MS).await;
        }
        sleep(dice.u32(5..20) * MS).await;
    }
}

/// Rows without a key, never repeated by the caller.
async fn plain(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let n = desk.books.number();
        let db = desk.db.timeout(LIMIT);
        let insert = sqlx::query("INSERT INTO plain VALUES ($1)").bind(n).execute(&db);
        if desk.books.call("plain write", LIMIT, insert).await.is_some() {
            desk.books.plain.lock().push(n);
        }
        sleep(dice.u32(5..20) * MS).await;
    }
}

/// The sum of all balances is zero in every snapshot, on every node.
async fn sum(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let db = desk.db.timeout(LIMIT);
        let sum = sqlx::query_scalar::<_, i64>("SELECT sum(balance)::int8 FROM accounts").fetch_one(&db);
        if let Some(sum) = desk.books.call("sum", LIMIT, sum).await
            && sum != 0
        {
            desk.books.violate(format!("the balances sum up to {sum}"));
        }
        sleep(dice.u32(10..30) * MS).await;
    }
}

async fn write_cells(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let cell = dice.usize(0..8);
        let db = desk.db.timeout(LIMIT);
        let add =
            sqlx::query_scalar::<_, i64>("UPDATE cells SET n = n + 1 WHERE id = $1 RETURNING n").bind(cell as i32);
        if let Some(n) = desk.books.call("cell write", LIMIT, add.fetch_one(&db)).await {
            desk.books.cells[cell].fetch_max(n, Ordering::SeqCst);
        }
        sleep(dice.u32(10..60) * MS).await;
    }
}

/// Never without what a writer of this process had been told before the read began.
async fn cached(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let cell = dice.usize(0..8);
        let told = desk.books.cells[cell].load(Ordering::SeqCst);
        let db = desk.db.timeout(LIMIT).cached(CACHED);
        let read = sqlx::query_scalar::<_, i64>("SELECT n FROM cells WHERE id = $1").bind(cell as i32);
        if let Some(n) = desk.books.call("cached read", LIMIT, db.fetch_one(read)).await
            && *n < told
        {
            desk.books.violate(format!(
                "cell {cell} is {n} from the cache, {told} had been acknowledged"
            ));
        }
        sleep(dice.u32(2..8) * MS).await;
    }
}

async fn tenant(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let id = format!("t{}", dice.u8(0..10));
        match desk.db.timeout(LIMIT).tenant(&id) {
            Ok(db) => {
                let rows = sqlx::query_scalar::<_, String>("SELECT tenant FROM note").fetch_all(&db);
                if let Some(rows) = desk.books.call("tenant read", LIMIT, rows).await
                    && (rows.len() != 3 || rows.iter().any(|row| *row != id))
                {
                    desk.books.violate(format!("tenant {id} sees {rows:?}"));
                }
            }
            Err(error) => desk.books.violate(format!("tenant {id} is refused: {error}")),
        }
        sleep(dice.u32(10..30) * MS).await;
    }
}

/// A session reads what it wrote, whichever node answers. Nobody else writes its row.
async fn session(desk: Desk, mut dice: fastrand::Rng, id: i32) {
    while desk.open() {
        let db = desk.db.session().timeout(LIMIT);
        let add = sqlx::query_scalar::<_, i64>("UPDATE pairs SET n = n + 1 WHERE id = $1 RETURNING n").bind(id);
        if let Some(n) = desk.books.call("session write", LIMIT, add.fetch_one(&db)).await {
            let written = n;
            for _ in 0..2 {
                let read = sqlx::query_scalar::<_, i64>("SELECT n FROM pairs WHERE id = $1").bind(id);
                if let Some(n) = desk.books.call("session read", LIMIT, read.fetch_one(&db)).await
                    && n < written
                {
                    desk.books.violate(format!("a session wrote {written} and reads {n}"));
                }
            }
        }
        sleep(dice.u32(10..30) * MS).await;
    }
}

/// Reads that may be so old and no older.
async fn fresh(desk: Desk, mut dice: fastrand::Rng, id: i32) {
    let mut told: VecDeque<(Instant, i64)> = VecDeque::new();
    let mut due = 0;
    while desk.open() {
        let db = desk.db.timeout(LIMIT);
        let add = sqlx::query_scalar::<_, i64>("UPDATE pairs SET n = n + 1 WHERE id = $1 RETURNING n").bind(id);
        if let Some(n) = desk.books.call("fresh write", LIMIT, add.fetch_one(&db)).await {
            told.push_back((Instant::now(), n));
        }
        let began = Instant::now();
        while let Some((_, n)) = told.pop_front_if(|(at, _)| *at + STALENESS <= began) {
            due = n;
        }
        let db = desk.db.replica(STALENESS).timeout(LIMIT);
        let read = sqlx::query_scalar::<_, i64>("SELECT n FROM pairs WHERE id = $1").bind(id);
        if let Some(n) = desk.books.call("fresh read", LIMIT, read.fetch_one(&db)).await
            && n < due
        {
            desk.books.violate(format!(
                "a read may be {STALENESS:?} old, shows {n}, and {due} was older than that"
            ));
        }
        sleep(dice.u32(10..40) * MS).await;
    }
}

/// Leaves things behind on a lease of its own, or looks whether others did.
async fn lease(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let db = desk.db.timeout(LIMIT);
        if let Some(mut lease) = desk.books.call("lease", LIMIT, db.acquire()).await {
            let mess = match dice.u8(0..8) {
                0 => Some("BEGIN; SELECT 1"),
                1 => Some("SET work_mem = '8MB'"),
                2 => Some("CREATE TEMP TABLE mess (n int8)"),
                3 => Some("SELECT pg_advisory_lock(7, pg_backend_pid())"),
                4 => Some("LISTEN mess"),
                _ => None,
            };
            let span = dice.u64(0..4000);
            match mess {
                // Dropped wherever it is by then.
                Some(mess) => {
                    let _ = timeout(Duration::from_micros(span), lease.execute(sqlx::raw_sql(mess))).await;
                }
                // A lease that breaks is no dirty one.
                None => {
                    if let Ok(Ok(Some(dirt))) = timeout(LIMIT, inspect(&mut lease)).await {
                        desk.books.violate(format!("a dirty lease: {dirt}"));
                    }
                }
            }
        }
        sleep(dice.u32(20..60) * MS).await;
    }
}

/// Calls that are dropped after a moment.
async fn drop_anywhere(desk: Desk, mut dice: fastrand::Rng) {
    while desk.open() {
        let span = Duration::from_micros(dice.u64(0..3000));
        let n = desk.books.number();
        let db = desk.db.timeout(LIMIT);
        match dice.u8(0..4) {
            0 => {
                let insert = sqlx::query("INSERT INTO plain VALUES ($1)").bind(n).execute(&db);
                if let Ok(Ok(_)) = timeout(span, insert).await {
                    desk.books.plain.lock().push(n);
                }
            }
            1 => {
                let _ = timeout(span, db.begin()).await;
            }
            2 => {
                let slow = sqlx::query("SELECT pg_sleep(0.002)").execute(&db);
                let _ = timeout(span, slow).await;
            }
            _ => {
                let echo = sqlx::query_scalar::<_, i64>("SELECT $1").bind(n).fetch_one(&db);
                if let Ok(Ok(answer)) = timeout(span, echo).await
                    && answer != n
                {
                    desk.books.violate(format!("asked for {n}, answered {answer}"));
                }
            }
        }
        sleep(dice.u32(5..20) * MS).await;
    }
}
