//! The facade in a minute: `DATABASE_URL=postgres://… cargo run -p db-stack --example quickstart`.

use db_stack::Db;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Db::connect(&std::env::var("DATABASE_URL")?).await?;
    let answer: i64 = sqlx::query_scalar("SELECT $1::int8 * 2")
        .bind(21_i64)
        .fetch_one(&db)
        .await?;
    println!("answer: {answer}");

    let mut tx = db.begin().await?;
    sqlx::query("CREATE TEMP TABLE visits (at timestamptz DEFAULT now())")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO visits DEFAULT VALUES")
        .execute(&mut *tx)
        .await?;
    let refused = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
    println!("inside: {}", refused.expect_err("a division by zero"));
    println!(
        "commit: {}",
        tx.commit().await.expect_err("nothing can be committed after an error")
    );

    println!("{:#?}", db.stats());
    let report = db.close().await;
    println!("closed in {:?}, still out: {}", report.took, report.still_out.len());
    Ok(())
}
