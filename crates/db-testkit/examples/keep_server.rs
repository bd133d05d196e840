//! Starts a server, prints its URL, process id and folder, and keeps it until it is ended (or 60 s have passed).
//!
//! Handy for a look at a server with the test defaults, and for testing what a killed process leaves behind.

use std::{io::Write, time::Duration};

use db_testkit::Postgres;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Postgres::start().await?;
    println!("{}", server.url());
    println!("{}", server.pid().unwrap_or_default());
    println!("{}", server.dir().display());
    std::io::stdout().flush()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    Ok(())
}
