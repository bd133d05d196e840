//! Around a plain sqlx pool, which shows no sessions: call sites, ages and uses.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Call, Layer, LeaseCause, Observers, QueryClass, config::Mode};
use db_leak::{LeakConfig, LeakLayer};
use sqlx::{Connection, postgres::PgPoolOptions};
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn layer() -> LeakLayer {
    let config = LeakConfig {
        threshold: Duration::from_millis(100),
        ..LeakConfig::default()
    };
    LeakLayer::new(config, Observers::default()).unwrap()
}

#[tokio::test]
async fn sites_ages_and_uses_are_known() {
    let database = db_testkit::database().await;
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_with(database.options())
        .await
        .unwrap();
    let leaks = layer();
    let source = leaks.layer(pool);
    let line = line!() + 1;
    let mut lease = source.acquire_here().await.unwrap();
    lease.ping().await.unwrap();
    let slow = db_core::Source::acquire(&source, &Call::here().with_class(QueryClass::Slow))
        .await
        .unwrap();
    let open = leaks.leases().open;
    assert_eq!(open.len(), 2);
    assert!(
        open[0].site.unwrap().line() == line && open[0].to_string().contains("around_pg_pool.rs"),
        "{}",
        open[0]
    );
    assert_eq!(open[1].class, QueryClass::Slow);
    // Suspect after its threshold; why, only the server could tell.
    let deadline = Instant::now() + Duration::from_secs(10);
    while leaks.leases().counts.suspected() == 0 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    let open = leaks.leases().open;
    assert!(matches!(
        open[0].suspected,
        Some(LeaseCause::Unknown | LeaseCause::Busy)
    ));
    assert_eq!(open[1].suspected, None, "the slow class may take longer");
    drop((lease, slow));
    let leases = leaks.leases();
    assert_eq!((leases.open.len(), leases.counts.returned), (0, 1));
    assert_eq!((leases.use_times.count(), leases.sites.len()), (2, 2));
    assert!(leases.sites[0].longest >= Duration::from_millis(100));
}

#[tokio::test]
async fn switched_off_it_knows_nothing() {
    let database = db_testkit::database().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(database.options())
        .await
        .unwrap();
    let leaks = layer();
    leaks
        .reload(LeakConfig {
            mode: Mode::Off,
            ..leaks.config()
        })
        .unwrap();
    let source = leaks.layer(pool);
    let lease = source.acquire_here().await.unwrap();
    assert_eq!(leaks.leases().open.len(), 0);
    drop(lease);
    assert_eq!(leaks.leases().use_times.count(), 0);
    let wrong = leaks
        .reload(LeakConfig {
            threshold: Duration::ZERO,
            ..leaks.config()
        })
        .unwrap_err();
    assert!(wrong.to_string().contains("leak.threshold"), "{wrong}");
}
