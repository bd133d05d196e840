//! Classes, timeouts and deadlines: `DATABASE_URL=postgres://… cargo run -p db-stack --example limits`.

use db_stack::{Db, QueryClass};
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::builder()
        .url(&std::env::var("DATABASE_URL")?)
        .max_connections(1)
        .connect()
        .await?;

    let since = Instant::now();
    let error = sqlx::query("SELECT pg_sleep(30)")
        .execute(&db.class(QueryClass::Instant))
        .await
        .expect_err("30 s in 200 ms");
    println!("after {:?}: {error}", since.elapsed());
    let since = Instant::now();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await?;
    println!("the only connection answers {one} again after {:?}", since.elapsed());

    let mut tx = db.timeout(Duration::from_millis(100)).begin().await?;
    let error = sqlx::query("SELECT pg_sleep(30)")
        .execute(&mut *tx)
        .await
        .expect_err("30 s in 100 ms");
    println!("inside: {error}");
    println!(
        "commit: {}",
        tx.commit().await.expect_err("a cancelled statement inside")
    );

    let sleepers: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()",
    )
    .fetch_one(&db)
    .await?;
    println!("still asleep on the server: {sleepers}");
    println!("{:#?}", db.stats());
    Ok(())
}
