//! What the callers were told about their orders and money, against what is in the tables.

use std::{collections::HashMap, fmt, time::Duration};

use anyhow::{Context, ensure};
use db_testkit::Postgres;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::demo::APPLICATION;

/// How long killed and closed sessions may take to leave the server.
const LEAVING: Duration = Duration::from_secs(10);

/// An order's identity, made by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OrderId(u128);

impl OrderId {
    pub(crate) fn random(dice: &mut fastrand::Rng) -> Self {
        Self(dice.u128(..))
    }

    fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(&text.replace('-', ""), 16).ok().map(Self)
    }
}

/// As a UUID is written.
impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

/// What a caller knows about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// `commit` said so.
    Acknowledged,
    /// An error says that nothing was committed.
    Refused,
    /// COMMIT was sent and its answer never came.
    Unknown,
}

/// The fates of all orders.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Vec<(OrderId, Fate)>);

impl Ledger {
    pub(crate) fn note(&mut self, id: OrderId, fate: Fate) {
        self.0.push((id, fate));
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Sums over the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Money {
    /// Of all accounts, balance and reserve.
    pub(crate) total: i64,
    pub(crate) reserved: i64,
    /// What the orders cost.
    pub(crate) spent: i64,
    pub(crate) ordered: i64,
    pub(crate) held: i64,
}

impl Money {
    pub(crate) async fn read(admin: &mut PgConnection) -> anyhow::Result<Self> {
        let sums = sqlx::query_as(
            "SELECT (SELECT sum(balance + reserved) FROM accounts)::int8 AS total, \
                    (SELECT sum(reserved) FROM accounts)::int8 AS reserved, \
                    (SELECT coalesce(sum(quantity * price), 0) FROM orders)::int8 AS spent, \
                    (SELECT coalesce(sum(quantity), 0) FROM orders)::int8 AS ordered, \
                    (SELECT coalesce(sum(quantity), 0) FROM positions)::int8 AS held",
        );
        sums.fetch_one(admin).await.context("cannot add up the tables")
    }
}

/// The comparison.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) acknowledged: usize,
    pub(crate) stored: usize,
    pub(crate) missing: usize,
    pub(crate) doubled: usize,
    /// Stored, though the caller was told that nothing was committed.
    pub(crate) ghosts: usize,
    pub(crate) unknown: usize,
    /// Of those of unknown outcome.
    pub(crate) unknown_stored: usize,
    pub(crate) before: Money,
    pub(crate) after: Money,
}

impl Audit {
    /// Once the last session of the workload has gone.
    pub(crate) async fn of(server: &Postgres, ledger: &Ledger, before: Money) -> anyhow::Result<Self> {
        let mut admin = server.admin().await?;
        gone(&mut admin).await?;
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT client_id::text, count(*) FROM orders GROUP BY client_id")
                .fetch_all(&mut admin)
                .await
                .context("cannot read the orders")?;
        let stored = rows
            .into_iter()
            .filter_map(|(id, copies)| Some((OrderId::parse(&id)?, copies)));
        let after = Money::read(&mut admin).await?;
        Ok(Self::compare(ledger, &stored.collect(), before, after))
    }

    fn compare(ledger: &Ledger, stored: &HashMap<OrderId, i64>, before: Money, after: Money) -> Self {
        let count = |fate: Fate, there: fn(i64) -> bool| {
            let copies = |id| stored.get(id).copied().unwrap_or(0);
            ledger
                .0
                .iter()
                .filter(|(id, noted)| *noted == fate && there(copies(id)))
                .count()
        };
        Self {
            acknowledged: count(Fate::Acknowledged, |_| true),
            stored: stored.len(),
            missing: count(Fate::Acknowledged, |copies| copies == 0),
            doubled: stored.values().filter(|copies| **copies > 1).count(),
            ghosts: count(Fate::Refused, |copies| copies > 0),
            unknown: count(Fate::Unknown, |_| true),
            unknown_stored: count(Fate::Unknown, |copies| copies > 0),
            before,
            after,
        }
    }

    /// No money came or went, every cent in reserve is an order's, and every share ordered is held.
    pub(crate) fn adds_up(&self) -> bool {
        self.after.total == self.before.total
            && self.after.reserved == self.after.spent
            && self.after.held == self.after.ordered
    }

    pub(crate) fn holds(&self) -> bool {
        self.missing == 0 && self.doubled == 0 && self.ghosts == 0 && self.adds_up()
    }
}

/// A session that was killed inside COMMIT may still be at it.
async fn gone(admin: &mut PgConnection) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1")
            .bind(APPLICATION)
            .fetch_one(&mut *admin)
            .await?;
        if left == 0 {
            return Ok(());
        }
        ensure!(
            since.elapsed() < LEAVING,
            "{left} sessions of the workload did not leave the server"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Money = Money {
        total: 100,
        reserved: 0,
        spent: 0,
        ordered: 0,
        held: 0,
    };

    #[test]
    fn an_identity_is_written_as_a_uuid_and_read_back() {
        let id = OrderId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(OrderId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn every_kind_of_difference_is_counted() {
        let fates = [
            (1, Fate::Acknowledged),
            (2, Fate::Acknowledged),
            (3, Fate::Acknowledged),
            (4, Fate::Refused),
            (5, Fate::Refused),
            (6, Fate::Unknown),
            (7, Fate::Unknown),
        ];
        let ledger = Ledger(fates.map(|(id, fate)| (OrderId(id), fate)).to_vec());
        let stored = HashMap::from([(1, 1), (2, 2), (4, 1), (6, 1)].map(|(id, n)| (OrderId(id), n)));
        let audit = Audit::compare(&ledger, &stored, NOTHING, NOTHING);
        assert_eq!((audit.acknowledged, audit.stored), (3, 4));
        assert_eq!((audit.missing, audit.doubled, audit.ghosts), (1, 1, 1));
        assert_eq!((audit.unknown, audit.unknown_stored), (2, 1));
        assert!(!audit.holds());
    }

    #[test]
    fn money_must_add_up() {
        let holds = |after| Audit::compare(&Ledger::default(), &HashMap::new(), NOTHING, after).holds();
        assert!(holds(NOTHING));
        assert!(holds(Money {
            reserved: 7,
            spent: 7,
            ordered: 2,
            held: 2,
            ..NOTHING
        }));
        assert!(!holds(Money { total: 99, ..NOTHING }));
        assert!(!holds(Money { reserved: 7, ..NOTHING }));
        assert!(!holds(Money { held: 1, ..NOTHING }));
    }
}
