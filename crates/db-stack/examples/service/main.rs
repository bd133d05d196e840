//! A web service on the whole stack: `DATABASE_URL=postgres://… cargo run -p db-stack --features axum --example service`.
//!
//! Settings come from `db.toml`, if there is one, and from `DB_STACK_…`; what is written to the file while the service runs
//! counts within two seconds. `LISTEN` says where it listens (default 127.0.0.1:8080). Ctrl-C ends it in order.

mod app;

use db_stack::{Db, DbConfig};
use std::{env, time::Duration};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = || {
        DbConfig::load()
            .optional_file("db.toml")
            .env(DbConfig::ENV_PREFIX)
            .build()
    };
    let db = Db::builder().config(settings()?).connect().await?;
    let _following = db.follow(Duration::from_secs(2), settings);
    app::prepare(&db).await?;

    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let draining = db.clone();
    axum::serve(listener, app::router(db.clone()))
        .with_graceful_shutdown(async move {
            // Without a handler for it Ctrl-C ends the program anyhow.
            let _ = tokio::signal::ctrl_c().await;
            // `/readyz` says no from now on.
            draining.drain();
        })
        .await?;
    let report = db.close().await;
    println!(
        "closed in {:?}, {} leases still out",
        report.took,
        report.still_out.len()
    );
    Ok(())
}
