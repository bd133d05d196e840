//! What is run: four kinds of work on small seeded tables.

use clap::ValueEnum;

/// Accounts in the table of the point select: pgbench's own size at scale 1, so that pgbench can use it too.
const ACCOUNTS: i32 = 100_000;
/// Rows in the table of the 100-row select.
const QUOTES: i32 = 10_000;
/// Rows that one [`Scenario::Rows`] reads.
pub(crate) const ROWS: usize = 100;

pub(crate) const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
pub(crate) const QUOTES_FROM: &str = "SELECT id, account, qty, price, fee, symbol, venue, buy, note, version \
     FROM quotes WHERE id >= $1 ORDER BY id LIMIT 100";
pub(crate) const INSERT: &str = "INSERT INTO orders (account, symbol, qty, price) VALUES ($1, $2, $3, $4)";
pub(crate) const DEBIT: &str = "UPDATE pgbench_accounts SET abalance = abalance + $2 WHERE aid = $1";
pub(crate) const BOOK: &str = "INSERT INTO history (account, delta) VALUES ($1, $2)";

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Scenario {
    /// One row by its primary key.
    PointSelect,
    /// 100 rows of 10 columns, every value decoded.
    Rows,
    /// One row into a table with a generated key.
    Insert,
    /// BEGIN, an update, an insert, a select, COMMIT.
    Transaction,
}

impl Scenario {
    /// The name in tables, in ratio lines and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PointSelect => "point-select",
            Self::Rows => "rows",
            Self::Insert => "insert",
            Self::Transaction => "transaction",
        }
    }

    /// Whether its tables grow and have to be emptied now and then.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Insert | Self::Transaction)
    }

    /// A key for this scenario that exists.
    pub(crate) fn key(self, random: &mut fastrand::Rng) -> i32 {
        match self {
            Self::Rows => random.i32(1..=QUOTES - i32::try_from(ROWS).unwrap_or(0)),
            _ => random.i32(1..=ACCOUNTS),
        }
    }
}

/// Empties what the writing scenarios fill: every subject starts from the same state.
pub(crate) const EMPTY: &str = "TRUNCATE orders, history";

/// The statements that make the tables, each in a trip of its own, since VACUUM wants no transaction around it.
pub(crate) fn seed() -> Vec<String> {
    vec![
        "CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))".to_owned(),
        "INSERT INTO pgbench_branches VALUES (1, 0, '')".to_owned(),
        // Room on each page, so that the updates of the transaction stay on it and the table keeps its size.
        "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) \
         WITH (fillfactor = 80)"
            .to_owned(),
        format!("INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM generate_series(1, {ACCOUNTS}) i"),
        "CREATE TABLE quotes (id int PRIMARY KEY, account bigint, qty int, price float8, fee float8, symbol text, \
         venue text, buy bool, note text, version smallint)"
            .to_owned(),
        format!(
            "INSERT INTO quotes SELECT i, i * 7, i % 1000, i * 0.25, i * 0.001, 'SYM' || i % 50, 'venue ' || i % 5, \
             i % 2 = 0, 'note of quote ' || i, i % 100 FROM generate_series(1, {QUOTES}) i"
        ),
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, symbol text, qty int, \
         price float8)"
            .to_owned(),
        "CREATE TABLE history (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, delta int)".to_owned(),
        "VACUUM ANALYZE pgbench_branches, pgbench_accounts, quotes".to_owned(),
    ]
}
