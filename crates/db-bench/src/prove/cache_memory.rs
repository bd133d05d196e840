//! What the cache keeps takes what it is allowed to take, whatever the answers look like.
//!
//! Each kind of answer has a process of its own, so that what one leaves behind in the allocator is not counted for the
//! next.

use std::{env, fs, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use db_stack::{Db, QueryClass};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::prove::{Verdict, findings::Findings, rig};

const TTL: Duration = Duration::from_secs(3600);
/// Tells a child what to do.
const CHILD: &str = "DB_STACK_CACHE_MEMORY_CHILD";
/// Queries under way at a time.
const CALLERS: usize = 16;
const MIB: u64 = 1024 * 1024;

/// What the answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// One number: nearly all of it is the cache's own.
    Numbers,
    /// One to twenty structs with a text of up to 400 bytes each.
    Structs,
    /// One text of up to 64 KiB.
    Texts,
}

#[derive(Serialize, Deserialize)]
struct Order {
    url: String,
    kind: Kind,
    max_mib: u64,
    /// How much comes in, in limits: all but one of them has to leave again.
    churn: u64,
}

/// Bytes of the process, as the kernel counts them.
#[derive(Serialize, Deserialize)]
struct Grown {
    limit: u64,
    /// At most, from the first answer on.
    peak: u64,
    /// At the end.
    end: u64,
    /// By the cache's own account, at most and at the end.
    said_peak: u64,
    said: u64,
    entries: u64,
    evicted: u64,
}

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    if let Ok(order) = env::var(CHILD) {
        let order: Order = serde_json::from_str(&order)?;
        println!("{}", serde_json::to_string(&churn(&order).await?)?);
        return Ok(Findings::new().verdict());
    }
    let server = rig::server().await?;
    let mut findings = Findings::new();
    for (kind, section) in [
        (Kind::Numbers, "numbers-"),
        (Kind::Structs, "structs-"),
        (Kind::Texts, "texts-"),
    ] {
        // Small limits would measure what a cache takes at all.
        let (max_mib, churn) = match (quick, kind) {
            (true, Kind::Numbers) => (16, 3),
            (true, Kind::Structs) => (32, 3),
            (true, Kind::Texts) => (64, 3),
            (false, Kind::Numbers) => (32, 10),
            (false, _) => (128, 10),
        };
        let url = server.url();
        let order = Order {
            url,
            kind,
            max_mib,
            churn,
        };
        let mut child = Command::new(env::current_exe()?);
        child
            .args(["prove", "cache-memory"])
            .env(CHILD, serde_json::to_string(&order)?);
        let output = child.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "the child process failed");
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find(|line| line.starts_with('{'));
        let grown: Grown = serde_json::from_str(line.context("the child said nothing")?)?;
        println!("{kind:?}, at most {max_mib} MiB:");
        findings.section(section);
        report(&mut findings, &grown);
    }
    Ok(findings.verdict())
}

fn report(findings: &mut Findings, grown: &Grown) {
    let share = |bytes: u64| bytes as f64 / grown.limit as f64;
    let percent = |bytes: u64| format!("{:.1} %", share(bytes) * 100.0);
    findings.note(
        "answers kept, and pushed out",
        format!("{} {}", grown.entries, grown.evicted),
    );
    findings.note("by its own account at the end", percent(grown.said));
    let said = share(grown.said_peak);
    findings.expect(
        "by its own account at most",
        percent(grown.said_peak),
        "<= 102 %",
        said <= 1.02,
    );
    findings.note("taken from the system at the end", percent(grown.end));
    let peak = share(grown.peak);
    // Far less would mean that it keeps less than it may.
    findings.expect(
        "taken from the system at most",
        percent(grown.peak),
        "70 to 110 %",
        (0.7..=1.1).contains(&peak),
    );
}

/// Fills a cache many times over.
async fn churn(order: &Order) -> anyhow::Result<Grown> {
    let db = Db::builder().url(&order.url).max_connections(4).configure(|config| {
        config.cache.max_mib = order.max_mib;
        config.cache.listen = false;
    });
    let db = db.connect().await?.class(QueryClass::Batch);
    ensure!(db.cache().ready(Duration::from_secs(10)).await, "nothing is cached");
    // What connections, plans and the allocator need anyhow is there before.
    for number in 0..2000 {
        ask(&db, order.kind, number, None).await?;
    }
    let before = resident()?;
    let limit = order.max_mib * MIB;
    let mut grown = Grown {
        limit,
        peak: 0,
        end: 0,
        said_peak: 0,
        said: 0,
        entries: 0,
        evicted: 0,
    };
    let (mut filled, mut next) = (0, 10_000_i64);
    while filled < limit * order.churn {
        let batch = 256;
        let asked = stream::iter(next..next + batch).map(|number| ask(&db, order.kind, number, Some(TTL)));
        let mut answers = asked.buffer_unordered(CALLERS);
        while let Some(bytes) = answers.next().await {
            filled += bytes?;
        }
        next += batch;
        grown.peak = grown.peak.max(resident()?.saturating_sub(before));
        if next % 16 == 0 {
            grown.said_peak = grown.said_peak.max(db.cache().stats().bytes);
        }
    }
    let stats = db.cache().stats();
    (grown.said, grown.entries, grown.evicted) = (stats.bytes, stats.entries, stats.evicted);
    grown.end = resident()?.saturating_sub(before);
    db.close().await;
    Ok(grown)
}

/// One answer that nobody had, kept for so long; returns about what it takes.
async fn ask(db: &Db, kind: Kind, number: i64, ttl: Option<Duration>) -> anyhow::Result<u64> {
    let mut dice = fastrand::Rng::with_seed(number.cast_unsigned());
    // Without a time nothing is kept: its class has none.
    let cached = match ttl {
        Some(ttl) => db.cached(ttl),
        None => db.cached_by_policy(),
    };
    match kind {
        Kind::Numbers => {
            cached
                .fetch_one(sqlx::query_scalar::<_, i64>("SELECT $1").bind(number))
                .await?;
            // The map's own part of it.
            Ok(500)
        }
        Kind::Structs => {
            let rows = sqlx::query_as::<_, (i64, String)>(
                "SELECT $1 + g, repeat('x', $2 + (g * 31 % 100)::int4) FROM generate_series(1, $3) AS g",
            );
            let rows = rows.bind(number).bind(dice.i32(0..300)).bind(dice.i32(1..=20));
            let rows = cached.fetch_all(rows).await?;
            Ok(500 + rows.iter().map(|(_, text)| text.len() as u64 + 48).sum::<u64>())
        }
        Kind::Texts => {
            let text = sqlx::query_scalar::<_, String>("SELECT repeat('x', $1) || $2::int8::text");
            let text = cached.fetch_one(text.bind(dice.i32(0..65536)).bind(number)).await?;
            Ok(500 + text.len() as u64)
        }
    }
}

/// What the process holds, without what files back.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("this proof needs /proc, that is Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .context("no RssAnon")?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    Ok(kib * 1024)
}
