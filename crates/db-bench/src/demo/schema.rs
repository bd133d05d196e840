//! The trading schema and its rows.

use anyhow::Context;
use db_stack::Db;
use sqlx::migrate::Migrator;

pub(crate) const ACCOUNTS: i64 = 1_000;
pub(crate) const SYMBOLS: i64 = 60;
/// Of each symbol, one for every second.
const QUOTES: i64 = 2_000;
/// In cents: enough for a minute of orders, not for ever.
const BALANCE: i64 = 50_000_000;

/// Where the slow-query log writes.
const SLOW_QUERIES: &str = include_str!("../../../../migrations/0010_slow_queries.up.sql");

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/demo");

pub(crate) async fn migrate(db: &Db) -> anyhow::Result<()> {
    MIGRATIONS.run(db).await.context("the migrations fail")
}

/// The table that the slow-query log writes to.
pub(crate) async fn keep_slow_queries(db: &Db) -> anyhow::Result<()> {
    let slow_queries = sqlx::raw_sql(SLOW_QUERIES).execute(db).await;
    slow_queries.map(drop).context("no table of slow queries")
}

/// Fills the tables; the same seed gives the same rows. Returns how many quotes there are.
pub(crate) async fn seed(db: &Db, seed: u64) -> anyhow::Result<u64> {
    sqlx::query(
        "INSERT INTO accounts (id, owner, balance) SELECT i, 'trader ' || i, $2 FROM generate_series(1, $1) AS i",
    )
    .bind(ACCOUNTS)
    .bind(BALANCE)
    .execute(db)
    .await
    .context("cannot fill accounts")?;
    // A slow wave for each symbol and a hash for the noise: no state, so the rows don't depend on their order.
    let quotes = sqlx::query(
        "INSERT INTO quotes (symbol, at, bid, ask) \
         SELECT 'S' || lpad(s::text, 3, '0'), timestamptz '2025-01-02 09:00:00+00' + i * interval '1 second', \
                mid - spread, mid + spread \
         FROM generate_series(0, $1 - 1) AS s, generate_series(1, $2) AS i, \
              LATERAL (SELECT (hashint8(i * 1009 + s * 9176 + $3)::bigint & 1023) AS noise) AS n, \
              LATERAL (SELECT 2000 + s * 150 + (800 * sin(i / 300.0 + s))::bigint + noise / 4 AS mid, \
                              1 + noise % 5 AS spread) AS p",
    )
    .bind(SYMBOLS)
    .bind(QUOTES)
    // Any seed will do, so its upper half may be folded away.
    .bind(i64::from((seed ^ (seed >> 32)) as u32))
    .execute(db)
    .await
    .context("cannot fill quotes")?;
    sqlx::raw_sql("ANALYZE")
        .execute(db)
        .await
        .context("cannot analyse the tables")?;
    Ok(quotes.rows_affected())
}

/// The name of a symbol.
pub(crate) fn symbol(number: i64) -> String {
    format!("S{number:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fingerprint(db: &Db) -> String {
        let text = "SELECT md5(string_agg(md5(q::text), '' ORDER BY symbol, at)) FROM quotes AS q";
        sqlx::query_scalar(text).fetch_one(db).await.unwrap()
    }

    #[tokio::test]
    async fn a_seed_decides_the_quotes_and_migrations_go_both_ways() {
        let database = db_testkit::database().await;
        let db = Db::connect(&database.url()).await.unwrap();
        let mut seen = Vec::new();
        for number in [1, 1, 2] {
            migrate(&db).await.unwrap();
            assert!(seed(&db, number).await.unwrap() >= 100_000);
            seen.push(fingerprint(&db).await);
            MIGRATIONS.undo(&db, 0).await.unwrap();
        }
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0], seen[2]);
        let left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations'";
        assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&db).await.unwrap(), 0);
    }
}
