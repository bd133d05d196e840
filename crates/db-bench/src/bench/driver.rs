//! How each subject does each kind of work. Generic, so that no subject pays for a box of the bench.

use super::scenario::{BOOK, DEBIT, INSERT, POINT, QUOTES_FROM, ROWS, Scenario};
use anyhow::{Result, ensure};
use db_core::{Call, Footprint, Operation, Run, Service, Statement, Want};
use db_pool::Pool;
use db_stack::Db;
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres, Row, postgres::PgRow, query};
use std::{future::Future, hint::black_box};

/// One way to reach the database.
pub(crate) trait Driver: Send + Sync + 'static {
    /// Does the scenario's work once.
    fn once(&self, scenario: Scenario, key: i32) -> impl Future<Output = Result<()>> + Send;
}

/// The bare pool of leases under `Run`, with no layer and no facade.
#[derive(Debug)]
pub(crate) struct Leases(pub(crate) Run<Pool>);

impl Driver for PgPool {
    async fn once(&self, scenario: Scenario, key: i32) -> Result<()> {
        match scenario {
            Scenario::Transaction => {
                let mut tx = self.begin().await?;
                three_statements(&mut tx, key).await?;
                Ok(tx.commit().await?)
            }
            _ => one_statement(self, scenario, key).await,
        }
    }
}

impl Driver for Db {
    async fn once(&self, scenario: Scenario, key: i32) -> Result<()> {
        match scenario {
            Scenario::Transaction => {
                let mut tx = self.begin().await?;
                query(DEBIT).bind(key).bind(1).execute(&mut *tx).await?;
                query(BOOK).bind(key).bind(1).execute(&mut *tx).await?;
                balance(&query(POINT).bind(key).fetch_one(&mut *tx).await?)?;
                Ok(tx.commit().await?)
            }
            _ => one_statement(self, scenario, key).await,
        }
    }
}

impl Driver for Leases {
    async fn once(&self, scenario: Scenario, key: i32) -> Result<()> {
        let call = Call::default();
        match scenario {
            Scenario::PointSelect => {
                let statement = Statement::new(query(POINT).bind(key), Want::First)?;
                let rows = self.0.call(&call, &statement).await?.rows;
                ensure!(rows.len() == 1, "{} rows instead of one", rows.len());
                balance(&rows[0])
            }
            Scenario::Rows => {
                let statement = Statement::new(query(QUOTES_FROM).bind(key), Want::All)?;
                quotes(&self.0.call(&call, &statement).await?.rows)
            }
            Scenario::Insert => {
                let insert = query(INSERT).bind(key).bind("SYM1").bind(10).bind(1.25);
                self.0.call(&call, &Statement::new(insert, Want::Count)?).await?;
                Ok(())
            }
            Scenario::Transaction => Ok(self.0.call(&call, &Transfer(key)).await?),
        }
    }
}

/// The three statements as one operation: what a retry would replay as a unit.
struct Transfer(i32);

impl Operation for Transfer {
    type Output = ();

    async fn run(&self, conn: &mut PgConnection) -> db_core::Result<()> {
        let mut tx = conn.begin().await?;
        query(DEBIT).bind(self.0).bind(1).execute(&mut *tx).await?;
        query(BOOK).bind(self.0).bind(1).execute(&mut *tx).await?;
        let row = query(POINT).bind(self.0).fetch_one(&mut *tx).await?;
        black_box(row.try_get::<i32, _>(0)?);
        Ok(tx.commit().await?)
    }

    fn footprint(&self) -> Footprint {
        // It ends with COMMIT or an error, and an error has the lease looked at.
        Footprint::None
    }
}

async fn one_statement<'p, E>(on: E, scenario: Scenario, key: i32) -> Result<()>
where
    E: Executor<'p, Database = Postgres>,
{
    match scenario {
        Scenario::PointSelect => balance(&query(POINT).bind(key).fetch_one(on).await?),
        Scenario::Rows => quotes(&query(QUOTES_FROM).bind(key).fetch_all(on).await?),
        Scenario::Insert => {
            query(INSERT)
                .bind(key)
                .bind("SYM1")
                .bind(10)
                .bind(1.25)
                .execute(on)
                .await?;
            Ok(())
        }
        Scenario::Transaction => anyhow::bail!("a transaction is more than one statement"),
    }
}

async fn three_statements(conn: &mut PgConnection, key: i32) -> Result<()> {
    query(DEBIT).bind(key).bind(1).execute(&mut *conn).await?;
    query(BOOK).bind(key).bind(1).execute(&mut *conn).await?;
    balance(&query(POINT).bind(key).fetch_one(conn).await?)
}

fn balance(row: &PgRow) -> Result<()> {
    black_box(row.try_get::<i32, _>(0)?);
    Ok(())
}

/// Every value is decoded: a service that reads a row wants what is in it.
fn quotes(rows: &[PgRow]) -> Result<()> {
    ensure!(rows.len() == ROWS, "{} rows instead of {ROWS}", rows.len());
    for row in rows {
        black_box(row.try_get::<i32, _>(0)?);
        black_box(row.try_get::<i64, _>(1)?);
        black_box(row.try_get::<i32, _>(2)?);
        black_box(row.try_get::<f64, _>(3)?);
        black_box(row.try_get::<f64, _>(4)?);
        black_box(row.try_get::<&str, _>(5)?);
        black_box(row.try_get::<&str, _>(6)?);
        black_box(row.try_get::<bool, _>(7)?);
        black_box(row.try_get::<&str, _>(8)?);
        black_box(row.try_get::<i16, _>(9)?);
    }
    Ok(())
}
