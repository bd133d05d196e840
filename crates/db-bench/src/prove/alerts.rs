//! `alerts`: every alert fires and resolves by promtool's own test; a real Prometheus scrapes a stack under real faults,
//! sees the alerts of those faults fire and resolve, and knows every metric that a rule or a panel names.

mod faults;
mod prometheus;

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context;
use db_metrics::{
    monitoring,
    registry::{Id, METRICS, Names},
};
use db_stack::Db;
use db_testkit::Postgres;
use tokio::time::{Instant, sleep};

use crate::prove::{Verdict, findings::Findings};
use prometheus::{Prometheus, missing, promtool};

/// The alerts that are driven by what they are about.
const BY_FAULT: [&str; 8] = [
    "DatabasePoolExhausted",
    "DatabasePoolNearlyExhausted",
    "DatabaseQueueing",
    "DatabaseQueryFailures",
    "DatabaseSlowQueries",
    "DatabaseClassSlow",
    "DatabaseTimeouts",
    "DatabaseConnectFailures",
];

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let mut findings = Findings::new();
    if let Some(tool) = missing() {
        return Ok(Verdict {
            // CI demands the tool; elsewhere the reader sees what was not done.
            passed: std::env::var_os("DB_STACK_REQUIRE_ALL").is_none_or(|all| all != "1"),
            figures: format!("skipped: {tool} is not installed"),
        });
    }
    // Beside the first round: it takes a third of the time that a quick proof has.
    let tool = tokio::spawn(tested_by_promtool());
    for round in 0..if quick { 1 } else { 3 } {
        println!("round {}", round + 1);
        under_faults(&mut findings).await?;
    }
    let tested = tool.await??;
    findings.expect(
        "docs/monitoring is as generated",
        tested.current,
        "true",
        tested.current,
    );
    for (rules, passed) in tested.passed {
        let all = monitoring::alerts(&Names::default()).len();
        let what = format!("alerts of {rules} that fire and resolve");
        findings.expect(&what, if passed { all } else { 0 }, all, passed);
    }
    Ok(findings.verdict())
}

/// What Prometheus's own tool says of the rules.
struct Tested {
    /// Whether the files of the repository are those that are generated.
    current: bool,
    /// By file of rules.
    passed: Vec<(String, bool)>,
}

async fn tested_by_promtool() -> anyhow::Result<Tested> {
    let folder = tempfile::tempdir()?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring");
    let mut current = true;
    for page in monitoring::pages() {
        current &= std::fs::read_to_string(docs.join(&page.name)).is_ok_and(|text| text == page.text);
        std::fs::write(folder.path().join(&page.name), page.text)?;
    }
    let mut passed = Vec::new();
    for suffix in ["", ".opentelemetry"] {
        let rules = format!("rules{suffix}.yml");
        let check = promtool(folder.path(), &["check", "rules", &rules]).await?;
        let test = promtool(folder.path(), &["test", "rules", &format!("rules{suffix}.test.yml")]).await?;
        passed.push((rules, check && test));
    }
    Ok(Tested { current, passed })
}

async fn under_faults(findings: &mut Findings) -> anyhow::Result<()> {
    let server = Postgres::start().await.context("no throwaway PostgreSQL")?;
    let db = Db::builder().url(&server.url()).max_connections(4).configure(|config| {
        config.metrics.listen = "127.0.0.1:0".to_owned();
        config.pool.acquire_timeout = Duration::from_millis(300);
        config.pool.connect_timeout = Duration::from_millis(500);
    });
    let db = db.connect().await?;
    let url = db.metrics_url().context("no exporter")?;
    let prometheus = Prometheus::start(&url, &short_rules()).await?;
    let mut quiet = prometheus.firing().await?;
    quiet.retain(|name| BY_FAULT.contains(&name.as_str()));
    findings.expect("alerts before any fault", quiet.len(), 0, quiet.is_empty());

    let mut fired = BTreeSet::new();
    let started = Instant::now();
    let faults = faults::drive(&db, &server);
    tokio::pin!(faults);
    let over = loop {
        tokio::select! {
            out = &mut faults => break out,
            () = sleep(Duration::from_millis(400)) => fired.extend(prometheus.firing().await?),
        }
    };
    over?;
    let missed: Vec<_> = BY_FAULT.into_iter().filter(|name| !fired.contains(*name)).collect();
    let count = BY_FAULT.len() - missed.len();
    findings.expect("alerts fired by their fault", count, BY_FAULT.len(), missed.is_empty());
    if !missed.is_empty() {
        println!("      missed: {missed:?}");
    }
    // Calls go on, and well: that is what resolves the ratios.
    let mut firing = BTreeSet::new();
    let limit = Instant::now() + Duration::from_secs(15);
    while Instant::now() < limit {
        faults::calm(&db).await;
        firing = prometheus.firing().await?;
        firing.retain(|name| BY_FAULT.contains(&name.as_str()));
        if firing.is_empty() {
            break;
        }
    }
    findings.expect("of these not resolved", firing.len(), 0, firing.is_empty());
    findings.note(
        "seconds of faults and recovery",
        format!("{:.0}", started.elapsed().as_secs_f64()),
    );

    let scraped = prometheus.names().await?;
    let names = Names::default();
    let absent: Vec<_> = named_in_rules_and_panels(&names)
        .into_iter()
        .filter(|name| !scraped.contains(name))
        .collect();
    findings.expect(
        "metrics of rules and panels that no scrape shows",
        absent.len(),
        0,
        absent.is_empty(),
    );
    if !absent.is_empty() {
        println!("      absent: {absent:?}");
    }
    drop(prometheus);
    db.close().await;
    Ok(())
}

/// The rules with the time that a proof has: windows of minutes become seconds.
fn short_rules() -> String {
    let rules = monitoring::pages().into_iter().find(|page| page.name == "rules.yml");
    let text = rules.map(|page| page.text).unwrap_or_default();
    let text = text
        .replace("interval: 30s", "interval: 1s")
        .replace("[5m]", "[5s]")
        .replace("[10m]", "[5s]");
    text.lines()
        .map(|line| {
            if line.trim_start().starts_with("for: ") {
                "        for: 1s"
            } else {
                line
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Metrics of replicas, of which this stack has none.
fn of_a_cluster(id: Id) -> bool {
    matches!(id, Id::ReplicaLag | Id::ReplicaUp | Id::ReplicaReads | Id::ReplicaBans)
}

/// What Prometheus must have seen. A metric of the registry is named where its name, or one of its parts, is a word.
fn named_in_rules_and_panels(names: &Names) -> BTreeSet<String> {
    let pages = monitoring::pages().into_iter();
    let text: String = pages
        .filter(|page| matches!(page.name.as_str(), "rules.yml" | "dashboard.json"))
        .map(|page| page.text)
        .collect();
    let words: BTreeSet<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let mut named = BTreeSet::new();
    for metric in METRICS.iter().filter(|metric| !of_a_cluster(metric.id)) {
        let name = names.prometheus(metric.id);
        for part in ["", "_bucket", "_count", "_sum"] {
            let part = format!("{name}{part}");
            if words.contains(part.as_str()) {
                named.insert(part);
            }
        }
    }
    named
}
