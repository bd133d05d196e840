//! The settings: defaults, text, and what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_core::{Observers, config::Mode};
use db_retry::{RetryConfig, RetryPolicy, Strategy};
use std::time::Duration;

const DEFAULTS: &str = r#"
mode = "enforce"
max_attempts = 3
strategy = "exponential"
base_delay = "50ms"
contention_delay = "20ms"
overload_delay = "250ms"
multiplier = 2.0
jitter = 0.3
cap = "1s"
budget_ratio = 0.1
budget_floor = 10
budget_span = "10s"
lock_timeouts = false
pooler = false
"#;

#[test]
fn the_defaults_as_text() {
    assert_eq!(
        toml::to_string(&RetryConfig::default()).unwrap().trim(),
        DEFAULTS.trim()
    );
    assert_eq!(toml::from_str::<RetryConfig>(DEFAULTS).unwrap(), RetryConfig::default());
    let some = toml::from_str::<RetryConfig>("mode = \"observe\"\nstrategy = \"decorrelated\"").unwrap();
    assert_eq!(
        (some.mode, some.strategy, some.max_attempts),
        (Mode::Observe, Strategy::Decorrelated, 3)
    );
    assert!(toml::from_str::<RetryConfig>("max_retries = 3").is_err());
}

#[test]
fn every_violation_is_named() {
    let config = RetryConfig {
        max_attempts: 0,
        base_delay: Duration::from_secs(2),
        contention_delay: Duration::ZERO,
        multiplier: f64::NAN,
        jitter: 1.5,
        budget_ratio: -0.1,
        budget_floor: 1001,
        budget_span: Duration::from_millis(1),
        ..RetryConfig::default()
    };
    let error = RetryPolicy::new(config, Observers::default()).unwrap_err();
    let keys: Vec<&str> = error.keys().iter().map(|key| &*key.key).collect();
    let wanted = [
        "max_attempts",
        "base_delay",
        "contention_delay",
        "multiplier",
        "jitter",
        "budget_ratio",
        "budget_floor",
        "budget_span",
    ];
    assert_eq!(keys, wanted.map(|key| format!("retry.{key}")));
}
