//! The generated pages: as they are in `docs/monitoring`, and as Prometheus's own tool likes them.

use db_metrics::{
    monitoring::{alerts, pages},
    registry::{METRICS, NameSet, Names},
};
use std::{fs, path::Path, process::Command};

#[test]
fn the_pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring");
    for page in pages() {
        let there = fs::read_to_string(folder.join(&page.name)).unwrap_or_default();
        assert!(
            there == page.text,
            "{} is out of date: cargo xtask dashboards",
            page.name
        );
    }
}

#[test]
fn rules_and_panels_name_only_metrics_of_the_registry() {
    for set in [NameSet::Report, NameSet::OpenTelemetry] {
        let names = Names {
            set,
            ..Names::default()
        };
        let known: Vec<_> = METRICS.iter().map(|metric| names.prometheus(metric.id)).collect();
        let prefixes = ["ava_", "db_client_", "db_stack_"];
        for page in pages().iter().filter(|page| {
            page.name.contains("opentelemetry") == (set == NameSet::OpenTelemetry) && !page.name.ends_with(".md")
        }) {
            let words = page
                .text
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
            for word in words
                .map(|word| word.trim_end_matches(':'))
                .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
            {
                let metric = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|part| word.strip_suffix(part));
                let label =
                    word == "db_client_connection_state" || word.starts_with("db_stack_") && !word.contains("total");
                let is_known = known.iter().any(|name| name == word || Some(name.as_str()) == metric);
                assert!(is_known || label, "{}: {word} is no metric", page.name);
            }
        }
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let runbook = pages().into_iter().find(|page| page.name == "runbook.md").unwrap();
    let alerts = alerts(&Names::default());
    assert!(alerts.len() >= 20);
    for alert in alerts {
        assert!(runbook.text.contains(&format!("\n## {}\n", alert.name)));
        assert!(!alert.action.is_empty());
    }
}

#[test]
fn promtool_accepts_the_rules_and_drives_every_alert() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return db_testkit::skip("promtool's tests of the alerts", "prometheus is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    for page in pages() {
        fs::write(folder.path().join(&page.name), &page.text).unwrap();
    }
    for suffix in ["", ".opentelemetry"] {
        for (verb, file) in [("check", "yml"), ("test", "test.yml")] {
            let output = Command::new("promtool")
                .args([verb, "rules", &format!("rules{suffix}.{file}")])
                .current_dir(folder.path())
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        }
    }
}
