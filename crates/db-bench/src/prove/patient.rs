//! The database that the doctor is shown: with ten planted faults, or its twin that has none.

use anyhow::Context;
use db_testkit::Postgres;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use std::{str::FromStr, time::Duration};
use tokio::time::sleep;

/// The statement for which an index is missing.
pub(crate) const UNINDEXED: &str = "SELECT id, total FROM orders WHERE customer_id = $1";
/// Sessions publish their counters when they end; the server's views show them within this time.
const PUBLISHED: Duration = Duration::from_millis(1500);
/// Rows that a page of the list shows, and pages that are looked at.
const PAGE: i64 = 50;
const PAGES: usize = 20;

/// The tables and the indexes that both have.
const SCHEMA: &str = "
CREATE EXTENSION pg_stat_statements;
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, placed_at timestamptz NOT NULL,
    total numeric NOT NULL, note text NOT NULL);
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, sku int NOT NULL);
CREATE TABLE visits (id bigint PRIMARY KEY, page int NOT NULL);
CREATE TABLE jobs (id bigint PRIMARY KEY, state bigint NOT NULL, payload text NOT NULL);
CREATE TABLE tickets (id serial PRIMARY KEY, what text);
CREATE INDEX orders_placed_at ON orders (placed_at);
CREATE INDEX jobs_state ON jobs (state);
";

/// Missing here: the index on orders (customer_id), and the one of the foreign key. Too many: the last two.
const FAULTY: &str = "
CREATE INDEX orders_placed_again ON orders (placed_at);
CREATE INDEX orders_note ON orders (note);
ALTER TABLE visits SET (autovacuum_enabled = off);
SELECT setval('tickets_id_seq', 2100000000);
";

const CLEAN: &str = "
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX items_order ON items (order_id);
SELECT setval('tickets_id_seq', 1000);
";

/// One of the two databases.
pub(crate) struct Patient {
    pub(crate) options: PgConnectOptions,
    pub(crate) hypopg: bool,
    faulty: bool,
    orders: i64,
}

impl Patient {
    /// Its tables, filled.
    pub(crate) async fn new(server: &Postgres, name: &str, faulty: bool, orders: i64) -> anyhow::Result<Self> {
        let mut admin = server.admin().await?;
        admin
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0")))
            .await?;
        let options = PgConnectOptions::from_str(&server.url_for(name))?;
        let mut pg = PgConnection::connect_with(&options).await?;
        pg.execute(sqlx::raw_sql(SCHEMA)).await.context("the schema")?;
        let hypopg = pg.execute("CREATE EXTENSION hypopg").await.is_ok();
        let fill = format!(
            "INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 3000) AS i;
             INSERT INTO orders SELECT i, i % 3000 + 1, timestamptz '2024-01-01' + i * interval '1 minute', i % 977, md5(i::text)
                 FROM generate_series(1, {orders}) AS i;
             INSERT INTO items SELECT i, i, i % 50 FROM generate_series(1, 5000) AS i;
             INSERT INTO visits SELECT i, i FROM generate_series(1, 12000) AS i;
             INSERT INTO jobs SELECT i, i, md5(i::text) FROM generate_series(1, 20000) AS i;"
        );
        pg.execute(sqlx::raw_sql(AssertSqlSafe(fill)))
            .await
            .context("the rows")?;
        pg.execute(sqlx::raw_sql(if faulty { FAULTY } else { CLEAN })).await?;
        pg.execute(sqlx::raw_sql("VACUUM ANALYZE")).await?;
        pg.execute("SELECT pg_stat_statements_reset()").await?;
        pg.close().await?;
        Ok(Self {
            options,
            hypopg,
            faulty,
            orders,
        })
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect_with(&self.options).await?)
    }

    /// A quiet day: each statement has run, with the plan that it should have.
    pub(crate) async fn day_before(&self) -> anyhow::Result<()> {
        let mut pg = self.connect().await?;
        for n in 0..10_i64 {
            pending(&mut pg, n).await?;
        }
        self.published(pg).await
    }

    /// The day on which things go wrong, or don't.
    pub(crate) async fn day(&self) -> anyhow::Result<()> {
        let mut pg = self.connect().await?;
        pg.execute("UPDATE visits SET page = page + 1").await?;
        if self.faulty {
            // What told rows apart does not any more: the index is of no use now.
            pg.execute("UPDATE jobs SET state = id % 2").await?;
        } else {
            // Told late, the rows that died would be counted after the vacuum that took them away.
            pg.execute("SELECT pg_stat_force_next_flush()").await?;
            pg.execute("VACUUM visits").await?;
        }
        pg.execute("VACUUM ANALYZE jobs").await?;
        for n in 0..30_i64 {
            pending(&mut pg, n % 2).await?;
        }
        for n in 0..120_i64 {
            sqlx::query(UNINDEXED).bind(n * 17 % 3000).fetch_all(&mut pg).await?;
        }
        for n in 0..150_i64 {
            sqlx::query("SELECT sku FROM items WHERE id = $1")
                .bind(n)
                .fetch_all(&mut pg)
                .await?;
        }
        for n in 0..6_i64 {
            let sleeps = if self.faulty { 0.15 } else { 0.0 };
            let sum = "SELECT sum(total) FROM orders, pg_sleep($2) WHERE id > $1";
            sqlx::query(sum)
                .bind(self.orders - 100 + n)
                .bind(sleeps)
                .execute(&mut pg)
                .await?;
        }
        self.pages(&mut pg).await?;
        self.published(pg).await
    }

    /// The list of orders with the customers' names: looked up one by one, or joined.
    async fn pages(&self, pg: &mut PgConnection) -> anyhow::Result<()> {
        let name = "SELECT name FROM customers WHERE id = $1";
        for page in 0..PAGES {
            let from = format!("2024-01-{:02}", page + 1);
            if self.faulty {
                let list = "SELECT id, customer_id FROM orders WHERE placed_at >= $1::text::timestamptz \
                            ORDER BY placed_at LIMIT $2";
                let rows: Vec<(i64, i64)> = sqlx::query_as(list).bind(from).bind(PAGE).fetch_all(&mut *pg).await?;
                for (_, customer) in rows {
                    sqlx::query(name).bind(customer).fetch_one(&mut *pg).await?;
                }
            } else {
                let list = "SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON c.id = o.customer_id \
                            WHERE o.placed_at >= $1::text::timestamptz ORDER BY o.placed_at LIMIT $2";
                sqlx::query(list).bind(from).bind(PAGE).fetch_all(&mut *pg).await?;
            }
        }
        if !self.faulty {
            // As many look-ups as any service makes: not one for each row of anything.
            for n in 0..1_700_i64 {
                sqlx::query(name).bind(n % 3000 + 1).fetch_one(&mut *pg).await?;
            }
        }
        Ok(())
    }

    async fn published(&self, pg: PgConnection) -> anyhow::Result<()> {
        pg.close().await?;
        sleep(PUBLISHED).await;
        Ok(())
    }
}

async fn pending(pg: &mut PgConnection, state: i64) -> anyhow::Result<()> {
    let sql = "SELECT count(payload) FROM jobs WHERE state = $1";
    sqlx::query(sql).bind(state).fetch_one(pg).await?;
    Ok(())
}

/// A name for each planted fault, as the doctor calls it, and what it has to be about.
pub(crate) const PLANTED: [(&str, &str); 10] = [
    ("missing-index", "orders"),
    ("duplicate-index", "orders_placed_again"),
    ("unused-index", "orders_note"),
    ("foreign-key-without-index", "items"),
    ("bloated-table", "visits"),
    ("n-plus-one", "customers"),
    ("plan-flip", "jobs"),
    ("idle-in-transaction", "pid"),
    ("sequence-exhaustion", "tickets"),
    ("slow-statement", "pg_sleep"),
];
