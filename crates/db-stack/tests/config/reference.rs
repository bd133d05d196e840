//! The table of keys and its page.

use db_core::config::Mode;
use db_stack::config::{DbConfig, KEYS, REPORT_NAMES, render_reference};
use std::{collections::BTreeMap, fs};

#[test]
fn every_section_has_its_layer() {
    assert!(DbConfig::default().inactive_keys().is_empty());
    let config = DbConfig::load()
        .with("pool.max_waiting", 5)
        .with("health.mode", Mode::Observe)
        .build()
        .unwrap();
    assert!(config.inactive_keys().is_empty());
}

fn flatten(name: &str, value: &serde_json::Value, keys: &mut BTreeMap<String, String>) {
    let text = match value {
        serde_json::Value::Object(inner) if !inner.is_empty() => {
            for (key, value) in inner {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                flatten(&name, value, keys);
            }
            return;
        }
        serde_json::Value::Null | serde_json::Value::Object(_) => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    keys.insert(name.to_owned(), text);
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let mut keys = BTreeMap::new();
    flatten("", &serde_json::to_value(DbConfig::default()).unwrap(), &mut keys);
    let documented: BTreeMap<_, _> = KEYS
        .iter()
        .map(|key| (key.name.to_owned(), key.default.to_owned()))
        .collect();
    assert_eq!(documented, keys);
    assert_eq!(documented.len(), KEYS.len(), "a key is listed twice");
    assert_eq!(KEYS[9].env(), "DB_STACK_POOL__MAX_CONNECTIONS");
    for (report, name) in REPORT_NAMES {
        assert!(
            documented.contains_key(*name),
            "{report} became {name}, which is unknown"
        );
    }
}

#[test]
fn the_reference_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, render_reference()).unwrap();
    }
    let page = fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == render_reference(),
        "stale: UPDATE_DOCS=1 cargo test -p db-stack --test config"
    );
}
