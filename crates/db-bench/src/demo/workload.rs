//! What the callers do: mostly look, sometimes buy, now and then ask for everything.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use db_stack::{AcquireFailure, Db, Error, Sent, TxConn};
use futures::TryStreamExt;
use hdrhistogram::Histogram;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::demo::{
    ledger::{Fate, Ledger, OrderId},
    market::Reader,
    progress::Progress,
    schema::{self, ACCOUNTS, SYMBOLS},
};

/// What a caller waits at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a statement of an order may take: a server that does not answer must not keep its callers.
const LIMIT: Duration = Duration::from_millis(500);
/// The first accounts: each order pays two of them.
const BROKERS: i64 = 12;
/// After an error: a caller that is refused at once must not spin.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Quote,
    Account,
    Order,
    Report,
    Export,
}

impl Kind {
    fn random(dice: &mut fastrand::Rng) -> Self {
        match dice.u32(0..1000) {
            0..560 => Self::Quote,
            560..780 => Self::Account,
            780..980 => Self::Order,
            980..998 => Self::Report,
            _ => Self::Export,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Quote => "read a quote",
            Self::Account => "look up an account",
            Self::Order => "place an order",
            Self::Report => "portfolio report",
            Self::Export => "export quotes",
        })
    }
}

/// How often one kind of call was made, and how long it took when it succeeded.
pub(crate) struct Calls {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// In microseconds.
    pub(crate) times: Histogram<u64>,
}

impl Calls {
    pub(crate) fn new() -> Self {
        let longest = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        let times = Histogram::new_with_max(longest, 3).expect("ten seconds with three digits are in range");
        Self {
            succeeded: 0,
            failed: 0,
            times,
        }
    }
}

/// What one task, or all of them, did and saw.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) calls: BTreeMap<Kind, Calls>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Orders that the balance did not allow.
    pub(crate) declined: u64,
    /// Orders that their session looked up right after they were placed, and those of them that it did not see.
    pub(crate) looked_up: u64,
    pub(crate) unseen: u64,
    pub(crate) ledger: Ledger,
}

/// One caller.
pub(crate) struct Trader {
    db: Db,
    dice: fastrand::Rng,
    progress: Progress,
    quotes: Reader,
    tally: Tally,
}

impl Trader {
    pub(crate) fn new(db: Db, seed: u64, number: u16, progress: Progress, quotes: Reader) -> Self {
        // An odd multiplier spreads neighbouring seeds over the whole range.
        let dice = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(number));
        Self {
            db,
            dice,
            progress,
            quotes,
            tally: Tally::default(),
        }
    }

    pub(crate) async fn trade(mut self, ended: watch::Receiver<bool>) -> Tally {
        while !*ended.borrow() {
            let kind = Kind::random(&mut self.dice);
            let since = Instant::now();
            // Boxed: the largest call decides the size of the future.
            let outcome = Box::pin(self.call(kind)).await;
            let took = since.elapsed();
            let calls = self.tally.calls.entry(kind).or_insert_with(Calls::new);
            self.progress.call();
            match outcome {
                Ok(()) => {
                    calls.succeeded += 1;
                    calls
                        .times
                        .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                }
                Err(Failed { name, pause }) => {
                    calls.failed += 1;
                    *self.tally.errors.entry(name).or_default() += 1;
                    self.progress.error();
                    sleep(pause).await;
                }
            }
        }
        self.tally
    }

    async fn call(&mut self, kind: Kind) -> Result<(), Failed> {
        let account = self.dice.i64(1..=ACCOUNTS);
        let number = self.dice.i64(0..SYMBOLS);
        let symbol = schema::symbol(number);
        let db = self.db.clone();
        match kind {
            Kind::Quote => within(self.quotes.read(number)).await.map(drop),
            Kind::Account => within(look_up(&db, account)).await,
            Kind::Order => self.order(account, &symbol).await,
            Kind::Report => within(report(&db, account)).await,
            Kind::Export => within(export(&db, &symbol)).await,
        }
    }

    /// Two different ones, in any order.
    fn brokers(&mut self) -> [i64; 2] {
        let first = self.dice.i64(0..BROKERS);
        let other = (first + self.dice.i64(1..BROKERS)) % BROKERS;
        [first + 1, other + 1]
    }

    async fn order(&mut self, account: i64, symbol: &str) -> Result<(), Failed> {
        let order = Order {
            id: OrderId::random(&mut self.dice),
            account,
            symbol: symbol.to_owned(),
            quantity: self.dice.i64(1..=20),
            brokers: self.brokers(),
        };
        // One session: what it reads after its order shows the order, whichever node answers.
        let (db, id) = (self.db.session().timeout(LIMIT), order.id);
        let committing = Arc::new(AtomicBool::new(false));
        let answer = timeout(PATIENCE, order.place(&db, committing.clone())).await;
        let fate = match &answer {
            Ok(Ok(true)) => Fate::Acknowledged,
            Ok(Err(Error::CommitUnknown { .. })) => Fate::Unknown,
            Err(_) if committing.load(Ordering::Relaxed) => Fate::Unknown,
            Ok(Ok(false) | Err(_)) | Err(_) => Fate::Refused,
        };
        self.tally.ledger.note(id, fate);
        if fate == Fate::Acknowledged {
            self.progress.order();
        }
        match answer {
            Ok(Ok(placed)) => {
                self.tally.declined += u64::from(!placed);
                if placed {
                    let found = within(placed_order(&db, id)).await?;
                    self.tally.looked_up += 1;
                    self.tally.unseen += u64::from(!found);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(Failed::by(&error)),
            Err(_) => Err(Failed::impatient()),
        }
    }
}

/// What an order is made of; owned, so that its transaction can run again.
#[derive(Clone)]
struct Order {
    id: OrderId,
    account: i64,
    symbol: String,
    quantity: i64,
    /// Two who each get a cent, in any order: two orders that name the same ones the other way round deadlock.
    brokers: [i64; 2],
}

impl Order {
    /// Whether the account could pay for it. Exactly once: the order's identity is the key.
    async fn place(self, db: &Db, committing: Arc<AtomicBool>) -> Result<bool, Error> {
        let price = quote(db, &self.symbol).await?;
        let id = self.id.to_string();
        db.transaction_once_stored(&id, async move |tx: &mut TxConn| {
            let placed = self.book(tx, price).await?;
            committing.store(true, Ordering::Relaxed);
            Ok::<_, Error>(placed)
        })
        .await
    }

    async fn book(&self, tx: &mut TxConn, price: i64) -> Result<bool, Error> {
        let paid = sqlx::query(
            "UPDATE accounts SET balance = balance - $2 - $3, reserved = reserved + $2 WHERE id = $1 AND balance >= $2 + $3",
        )
        .bind(self.account)
        .bind(price * self.quantity)
        .bind(self.brokers.len() as i64)
        .execute(&mut *tx)
        .await?;
        if paid.rows_affected() == 0 {
            return Ok(false);
        }
        for broker in self.brokers {
            sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id = $1")
                .bind(broker)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(
            "INSERT INTO orders (client_id, account_id, symbol, quantity, price) VALUES ($1::text::uuid, $2, $3, $4, $5)",
        )
        .bind(self.id.to_string())
        .bind(self.account)
        .bind(&self.symbol)
        .bind(self.quantity)
        .bind(price)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO positions AS p (account_id, symbol, quantity) VALUES ($1, $2, $3) \
             ON CONFLICT (account_id, symbol) DO UPDATE SET quantity = p.quantity + excluded.quantity",
        )
        .bind(self.account)
        .bind(&self.symbol)
        .bind(self.quantity)
        .execute(&mut *tx)
        .await?;
        Ok(true)
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
    match timeout(PATIENCE, call).await {
        Ok(outcome) => outcome.map_err(|error| Failed::by(&error)),
        Err(_) => Err(Failed::impatient()),
    }
}

/// The price at which one can buy now.
async fn quote(db: &Db, symbol: &str) -> Result<i64, Error> {
    let ask = sqlx::query_scalar("SELECT ask FROM quotes WHERE symbol = $1 ORDER BY at DESC LIMIT 1");
    Ok(ask.bind(symbol).fetch_one(db).await?)
}

/// Whether an order is there.
async fn placed_order(db: &Db, id: OrderId) -> Result<bool, Error> {
    let quantity = sqlx::query_scalar::<_, i64>("SELECT quantity FROM orders WHERE client_id = $1::text::uuid");
    Ok(quantity.bind(id.to_string()).fetch_optional(db).await?.is_some())
}

async fn look_up(db: &Db, account: i64) -> Result<(), Error> {
    let _: (String, i64, i64) = sqlx::query_as("SELECT owner, balance, reserved FROM accounts WHERE id = $1")
        .bind(account)
        .fetch_one(db)
        .await?;
    Ok(())
}

/// What an account holds, at the latest prices.
async fn report(db: &Db, account: i64) -> Result<(), Error> {
    let _: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT p.symbol, p.quantity, p.quantity * q.bid FROM positions AS p, \
         LATERAL (SELECT bid FROM quotes WHERE symbol = p.symbol ORDER BY at DESC LIMIT 1) AS q \
         WHERE p.account_id = $1 ORDER BY p.symbol",
    )
    .bind(account)
    .fetch_all(db)
    .await?;
    Ok(())
}

/// All quotes of a symbol, row by row.
async fn export(db: &Db, symbol: &str) -> Result<(), Error> {
    let mut rows = sqlx::query_as::<_, (i64, i64)>("SELECT bid, ask FROM quotes WHERE symbol = $1 ORDER BY at")
        .bind(symbol)
        .fetch(db);
    while rows.try_next().await?.is_some() {}
    Ok(())
}

/// A call that failed: its kind in words, and how long its caller leaves the database in peace.
struct Failed {
    name: String,
    pause: Duration,
}

impl Failed {
    fn by(error: &Error) -> Self {
        // A good client does as it is told.
        let told = match error {
            Error::Breaker(open) => open.retry_after,
            Error::Acquire(refused) => refused.retry_after,
            _ => None,
        };
        Self {
            name: name(error),
            pause: told.unwrap_or_default().clamp(PAUSE, LONGEST_PAUSE),
        }
    }

    fn impatient() -> Self {
        Self {
            name: format!("no answer within {PATIENCE:?}"),
            pause: PAUSE,
        }
    }
}

/// An error by its kind, as the table shows it.
fn name(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("the server said no: SQLSTATE {}", server.state()),
        Error::Network { sent: Sent::No, .. } => "connection lost before the statement was sent".to_owned(),
        Error::Network { .. } => "connection lost, the statement may have run".to_owned(),
        Error::Acquire(acquire) if acquire.failure == AcquireFailure::TimedOut => "no connection in time".to_owned(),
        Error::Acquire(acquire) => format!("no connection: {}", acquire.failure),
        Error::Timeout(_) => "timed out".to_owned(),
        Error::Breaker(_) => "refused: the circuit breaker is open".to_owned(),
        Error::Aborted(aborted) => aborted.to_string(),
        Error::CommitUnknown { .. } => "the outcome of COMMIT is unknown".to_owned(),
        other => other.to_string(),
    }
}
