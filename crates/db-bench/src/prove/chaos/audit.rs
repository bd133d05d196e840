//! What must hold when all is over: of the pool, of this process, of the rows.

use std::{collections::HashMap, time::Duration};

use db_stack::Db;
use db_testkit::Postgres;
use futures::future::join_all;
use sqlx::PgConnection;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::prove::{
    cancellation::aftermath::inspect,
    chaos::{books::Books, stage::Stage},
    rig::APPLICATION,
};

/// How long what was dropped last may take to be cleaned up.
const QUIET: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// All leases can be had at once, all are clean, and all come back.
pub(crate) async fn pool(name: &str, db: &Db, shared: bool, books: &Books) {
    at_rest(name, db, books).await;
    let max = db.config().pool.max_connections;
    let since = Instant::now();
    // Of the pool itself: `Db` hands out no lease on a session that others share.
    let wanted = (0..max).map(|_| timeout(QUIET, db.pool().acquire()));
    let mut leases: Vec<_> = join_all(wanted)
        .await
        .into_iter()
        .filter_map(|lease| lease.ok()?.ok())
        .collect();
    if leases.len() != max as usize {
        books.violate(format!(
            "{name}: {} of {max} leases at once; {:?}",
            leases.len(),
            db.stats()
        ));
    }
    // A session behind a pooler is another one at each statement.
    for lease in leases.iter_mut().filter(|_| !shared) {
        match timeout(QUIET, inspect(lease)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(dirt))) => books.violate(format!("{name}: a dirty lease at the end: {dirt}")),
            Ok(Err(error)) => books.violate(format!("{name}: a lease that does not work at the end: {error:#}")),
            Err(_) => books.violate(format!("{name}: a lease does not answer at the end")),
        }
    }
    drop(leases);
    println!("  {name}: all {max} leases at once after {:?}", since.elapsed());
    at_rest(name, db, books).await;
}

async fn at_rest(name: &str, db: &Db, books: &Books) {
    let since = Instant::now();
    loop {
        let stats = db.stats();
        let busy = stats.in_use + stats.quarantined + stats.dialing + stats.lent + stats.waiting;
        if busy == 0 && stats.size == stats.idle {
            return;
        }
        if since.elapsed() > QUIET {
            return books.violate(format!("{name}: never at rest: {stats:?}"));
        }
        sleep(POLL).await;
    }
}

/// Tasks of this process beside those that carry a connection through a proxy.
pub(crate) fn tasks(stage: &Stage) -> u64 {
    (Handle::current().metrics().num_alive_tasks() as u64).saturating_sub(stage.links())
}

/// Resident memory in KiB, 0 where the system does not say.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// After `close()` no session of ours is left on a server.
pub(crate) async fn gone(name: &str, server: &Postgres, books: &Books) -> anyhow::Result<()> {
    let mut admin = server.admin().await?;
    let since = Instant::now();
    loop {
        let left: Vec<(i32, Option<String>, String)> = sqlx::query_as(
            "SELECT pid, state, left(query, 60) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()",
        )
        .bind(APPLICATION)
        .fetch_all(&mut admin)
        .await?;
        if left.is_empty() {
            return Ok(());
        }
        if since.elapsed() > QUIET {
            books.violate(format!("{name}: sessions outlive close(): {left:?}"));
            return Ok(());
        }
        sleep(POLL).await;
    }
}

/// Nothing acknowledged is lost, nothing is there twice, and the balances are those of the transfers.
pub(crate) async fn rows(name: &str, admin: &mut PgConnection, books: &Books) -> anyhow::Result<()> {
    let transfers = copies(admin, "SELECT id, count(*) FROM transfers GROUP BY id").await?;
    let plain = copies(admin, "SELECT n, count(*) FROM plain GROUP BY n").await?;
    for (what, rows, acknowledged) in [
        ("transfers", &transfers, books.transfers.lock().clone()),
        ("plain rows", &plain, books.plain.lock().clone()),
    ] {
        let lost: Vec<_> = acknowledged.iter().filter(|n| !rows.contains_key(n)).collect();
        let doubled: Vec<_> = rows.iter().filter(|(_, copies)| **copies > 1).collect();
        if !lost.is_empty() {
            books.violate(format!("{name}: {} acknowledged {what} lost: {lost:?}", lost.len()));
        }
        if !doubled.is_empty() {
            books.violate(format!("{name}: {} {what} doubled: {doubled:?}", doubled.len()));
        }
        println!("  {name}: {} {what}, {} acknowledged", rows.len(), acknowledged.len());
    }
    let wrong: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM accounts AS a WHERE balance <> \
         coalesce((SELECT sum(amount) FROM transfers WHERE payee = a.id), 0) \
         - coalesce((SELECT sum(amount) FROM transfers WHERE payer = a.id), 0)",
    )
    .fetch_one(&mut *admin)
    .await?;
    if wrong > 0 {
        books.violate(format!("{name}: {wrong} balances are not those of the transfers"));
    }
    Ok(())
}

async fn copies(admin: &mut PgConnection, sql: &'static str) -> sqlx::Result<HashMap<i64, i64>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(admin).await?;
    Ok(rows.into_iter().collect())
}
