//! The settings as text.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{
    QueryClass,
    config::{Checks, Mode},
};
use db_timeout::{ClassLimits, TimeoutConfig};
use std::time::Duration;

fn violations(text: &str) -> Vec<String> {
    let config: TimeoutConfig = toml::from_str(text).unwrap();
    let mut checks = Checks::default();
    config.validate("timeout", &mut checks);
    match checks.finish() {
        Ok(()) => Vec::new(),
        Err(error) => error.keys().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_defaults_are_the_reports_table() {
    let config = TimeoutConfig::default();
    let expected = "\
        instant: 200ms 100ms true Some(60s)\n\
        fast: 1s 500ms true Some(30s)\n\
        normal: 5s 2s true None\n\
        slow: 15s 10s false Some(300s)\n\
        batch: 120s 60s false None\n";
    let classes = [
        QueryClass::Instant,
        QueryClass::Fast,
        QueryClass::Normal,
        QueryClass::Slow,
        QueryClass::Batch,
    ];
    let table: String = classes
        .map(|class| {
            let ClassLimits {
                timeout,
                alert,
                retry,
                cache_ttl,
            } = config.limits(class);
            format!("{}: {timeout:?} {alert:?} {retry} {cache_ttl:?}\n", class.name())
        })
        .concat();
    assert_eq!(table, expected);
    assert_eq!((config.mode, config.adaptive.mode), (Mode::Enforce, Mode::Off));
    assert_eq!(config.longest(), Duration::from_secs(120));
    assert!(violations("").is_empty());
}

#[test]
fn a_section_keeps_the_defaults_of_its_own_class() {
    let config: TimeoutConfig = toml::from_str(
        "mode = 'observe'\n\
         [instant]\ntimeout = '150ms'\n\
         [slow]\ncache_ttl = 'off'\n\
         [normal]\nretry = false\n\
         [custom.nightly]\ntimeout = '10m'\n\
         [adaptive]\nmode = 'enforce'\n",
    )
    .unwrap();
    assert_eq!(
        config.instant,
        ClassLimits {
            timeout: Duration::from_millis(150),
            ..ClassLimits::INSTANT
        }
    );
    assert_eq!(
        config.slow,
        ClassLimits {
            cache_ttl: None,
            ..ClassLimits::SLOW
        }
    );
    assert_eq!(
        config.normal,
        ClassLimits {
            retry: false,
            ..ClassLimits::NORMAL
        }
    );
    let nightly = ClassLimits {
        timeout: Duration::from_secs(600),
        ..ClassLimits::NORMAL
    };
    assert_eq!(config.limits(QueryClass::Custom("nightly")), nightly);
    assert_eq!(config.limits(QueryClass::Custom("unheard of")), config.normal);
    assert_eq!(config.longest(), Duration::from_secs(600));
    assert_eq!((config.mode, config.adaptive.mode), (Mode::Observe, Mode::Enforce));
    assert_eq!((config.near_limit, config.adaptive.factor), (0.8, 1.5));
}

#[test]
fn what_is_written_reads_back() {
    let mut config = TimeoutConfig::default();
    config.custom.insert("nightly".into(), ClassLimits::BATCH);
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<TimeoutConfig>(&text).unwrap(), config, "{text}");
}

#[test]
fn unknown_keys_and_bare_numbers_are_refused() {
    for text in [
        "timeout = '1s'",
        "[instnt]\ntimeout = '1s'",
        "[fast]\nalrt = '1s'",
        "[fast]\ntimeout = 5",
        "window = 1",
    ] {
        assert!(toml::from_str::<TimeoutConfig>(text).is_err(), "{text}");
    }
}

#[test]
fn every_violation_is_named() {
    let text = "near_limit = 0.05\nwindow = '10ms'\nmax_statements = 0\n\
                [instant]\ntimeout = '0s'\n\
                [custom.batch]\n[custom.'Weekly report']\nalert = '48h'\n\
                [adaptive]\nquantile = 1.5\nfactor = 0.5\nmin_samples = 1\nfloor = '0s'\nwiden_share = 0.0";
    assert_eq!(
        violations(text),
        [
            "timeout.instant.timeout = 0s: allowed is 1ms..=1day",
            "timeout.custom.Weekly report = (name): allowed is a name of [a-z0-9_-] that is not built in",
            "timeout.custom.Weekly report.alert = 2days: allowed is 1ms..=1day",
            "timeout.custom.batch = (name): allowed is a name of [a-z0-9_-] that is not built in",
            "timeout.adaptive.quantile = 1.5: allowed is 0.5..=0.999",
            "timeout.adaptive.factor = 0.5: allowed is 1..=10",
            "timeout.adaptive.min_samples = 1: allowed is 20..=10000",
            "timeout.adaptive.floor = 0s: allowed is 1ms..=1day",
            "timeout.adaptive.widen_share = 0: allowed is 0.01..=0.5",
            "timeout.near_limit = 0.05: allowed is 0.1..=1",
            "timeout.window = 10ms: allowed is 1s..=1h",
            "timeout.max_statements = 0: allowed is 1..=100000",
        ]
    );
    let many: String = (0..65).map(|n| format!("[custom.c{n}]\n")).collect();
    assert_eq!(
        violations(&many),
        ["timeout.custom = 65 classes: allowed is at most 64 classes"]
    );
}
