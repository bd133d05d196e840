//! What the checks of reports say is in the metrics, though nobody asks for a report.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{rig, until};
use db_stack::{Finding, check_fn};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn checks_and_the_servers_connections_are_in_the_metrics_though_nobody_asks() {
    let rig = rig().await;
    let db = rig
        .builder(2)
        .configure(|config| {
            config.health.interval = Duration::from_millis(200);
            config.health.timeout = Duration::from_millis(200);
            config.health.report_every = Duration::from_millis(200);
        })
        .connect()
        .await
        .unwrap();
    let well = Arc::new(AtomicBool::new(false));
    let disk = well.clone();
    db.add_health_check(check_fn("disk", move || {
        let well = disk.load(Ordering::Relaxed);
        async move {
            if well {
                Finding::healthy("room enough")
            } else {
                Finding::unhealthy("full")
            }
        }
    }));
    let shows = async |what: &str| db.metrics().render().lines().any(|line| line.starts_with(what));
    // Counted from the start, so that a rate sees the first failure.
    assert!(shows(r#"ava_database_health_check_failures_total{check="tables"} 0"#).await);
    for line in [
        r#"ava_database_health{check="connectivity"} 1"#,
        r#"ava_database_health{check="transaction"} 1"#,
        r#"ava_database_health{check="connections"} "#,
        r#"ava_db_server_connections{state="used"} "#,
        r#"ava_db_server_connections{state="max"} "#,
        r#"ava_database_health{check="disk"} 0"#,
        r#"ava_database_health_check_failures_total{check="disk"} 2"#,
    ] {
        until(line, async || shows(line).await).await;
    }
    well.store(true, Ordering::Relaxed);
    until("the disk is well", async || {
        shows(r#"ava_database_health{check="disk"} 1"#).await
    })
    .await;
    db.close().await;
}
