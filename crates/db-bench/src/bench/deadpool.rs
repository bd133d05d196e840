//! deadpool-postgres, with its statement cache and its fast recycling: the pool to beat.

use super::{
    driver::Driver,
    scenario::{BOOK, DEBIT, INSERT, POINT, QUOTES_FROM, ROWS, Scenario},
};
use anyhow::{Result, ensure};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use std::hint::black_box;
use tokio_postgres::{NoTls, Row};

/// The pool as its README makes it, with `connections` connections.
pub(crate) fn pool(config: tokio_postgres::Config, connections: u32) -> Result<Pool> {
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
    Ok(Pool::builder(manager).max_size(connections as usize).build()?)
}

impl Driver for Pool {
    async fn once(&self, scenario: Scenario, key: i32) -> Result<()> {
        let mut client = self.get().await?;
        match scenario {
            Scenario::PointSelect => {
                let statement = client.prepare_cached(POINT).await?;
                balance(&client.query_one(&statement, &[&key]).await?)
            }
            Scenario::Rows => {
                let statement = client.prepare_cached(QUOTES_FROM).await?;
                quotes(&client.query(&statement, &[&key]).await?)
            }
            Scenario::Insert => {
                let statement = client.prepare_cached(INSERT).await?;
                client.execute(&statement, &[&key, &"SYM1", &10, &1.25]).await?;
                Ok(())
            }
            Scenario::Transaction => {
                let tx = client.transaction().await?;
                let debit = tx.prepare_cached(DEBIT).await?;
                tx.execute(&debit, &[&key, &1]).await?;
                let book = tx.prepare_cached(BOOK).await?;
                tx.execute(&book, &[&key, &1]).await?;
                let point = tx.prepare_cached(POINT).await?;
                balance(&tx.query_one(&point, &[&key]).await?)?;
                Ok(tx.commit().await?)
            }
        }
    }
}

fn balance(row: &Row) -> Result<()> {
    black_box(row.try_get::<_, i32>(0)?);
    Ok(())
}

fn quotes(rows: &[Row]) -> Result<()> {
    ensure!(rows.len() == ROWS, "{} rows instead of {ROWS}", rows.len());
    for row in rows {
        black_box(row.try_get::<_, i32>(0)?);
        black_box(row.try_get::<_, i64>(1)?);
        black_box(row.try_get::<_, i32>(2)?);
        black_box(row.try_get::<_, f64>(3)?);
        black_box(row.try_get::<_, f64>(4)?);
        black_box(row.try_get::<_, &str>(5)?);
        black_box(row.try_get::<_, &str>(6)?);
        black_box(row.try_get::<_, bool>(7)?);
        black_box(row.try_get::<_, &str>(8)?);
        black_box(row.try_get::<_, i16>(9)?);
    }
    Ok(())
}
