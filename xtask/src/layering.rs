//! Which crate may depend on which. Read from `cargo metadata`, so that it can't drift from what is built.
//!
//! `db-core` stands alone, a layer knows `db-core` only, the facade joins them, and nothing knows the benches.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::cargo;
use crate::check::Outcome;

const CORE: &str = "db-core";
const FACADE: &str = "db-stack";
const TESTKIT: &str = "db-testkit";
const BENCH: &str = "db-bench";
const FUZZ: &str = "db-fuzz";
/// Names that are ours even before the crate exists; two of them belong to others on the public registry.
const OURS: [&str; 14] = [
    CORE,
    FACADE,
    TESTKIT,
    BENCH,
    FUZZ,
    "db-pool",
    "db-cache",
    "db-health",
    "db-leak",
    "db-metrics",
    "db-replica",
    "db-retry",
    "db-timeout",
    "db-advisor",
];

/// What the rules look at.
#[derive(Default)]
struct Graph {
    members: BTreeMap<String, Vec<Arrow>>,
    /// Packages in the tree that do not come from a path.
    foreign: BTreeSet<String>,
}

struct Arrow {
    to: String,
    dev: bool,
}

pub(crate) fn check() -> Result<Outcome> {
    let metadata = MetadataCommand::new()
        .current_dir(cargo::root())
        .exec()
        .context("cargo metadata")?;
    Ok(Outcome::of_findings(&findings(&Graph::read(&metadata))))
}

impl Graph {
    fn read(metadata: &Metadata) -> Self {
        let mut graph = Self::default();
        for package in &metadata.packages {
            if package.source.is_some() {
                graph.foreign.insert(package.name.to_string());
            }
        }
        for package in metadata.workspace_packages() {
            let arrow = |d: &cargo_metadata::Dependency| Arrow {
                to: d.name.clone(),
                dev: d.kind == DependencyKind::Development,
            };
            graph.members.insert(
                package.name.to_string(),
                package.dependencies.iter().map(arrow).collect(),
            );
        }
        graph
    }

    /// The arrows that stay in the workspace.
    fn inner<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a Arrow> {
        self.members
            .get(from)
            .into_iter()
            .flatten()
            .filter(|arrow| self.members.contains_key(&arrow.to))
    }
}

fn findings(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for from in graph.members.keys() {
        for arrow in graph.inner(from) {
            if let Some(rule) = broken_rule(from, arrow) {
                let kind = if arrow.dev { "dev-depends" } else { "depends" };
                found.push(format!("{from} {kind} on {}: {rule}", arrow.to));
            }
        }
    }
    for name in &graph.foreign {
        if OURS.contains(&name.as_str()) || (name.starts_with("db-") && graph.members.contains_key(name)) {
            found.push(format!(
                "{name} comes from a registry or repository: there the name belongs to someone else"
            ));
        }
    }
    found.extend(cycle(graph).map(|path| format!("a cycle: {}", path.join(" -> "))));
    found
}

/// The rule that this arrow breaks, if any.
fn broken_rule(from: &str, Arrow { to, dev }: &Arrow) -> Option<&'static str> {
    match (from, to.as_str()) {
        (_, "xtask") => Some("xtask is a tool, not a library"),
        (_, BENCH | FUZZ) => Some("nothing depends on the benches and the fuzz targets"),
        ("xtask", name) if name.starts_with("db-") => Some("xtask shells out, so that it builds without the product"),
        (CORE, _) => Some("db-core stands alone"),
        (BENCH | FUZZ, _) => None,
        (_, TESTKIT) => (!dev).then_some("the test kit is for tests: a dev-dependency only"),
        (FACADE | TESTKIT, _) | (_, CORE) => None,
        (layer, _) if layer.starts_with("db-") => Some("a layer knows db-core only; the facade joins layers"),
        _ => None,
    }
}

/// A path that leads back to its start. Dev-dependencies count: cargo allows such a cycle, but builds a crate twice.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph
        .members
        .keys()
        .find_map(|start| walk(graph, start, &mut Vec::new(), &mut done))
}

fn walk(graph: &Graph, at: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(seen) = path.iter().position(|name| name == at) {
        let mut cycle = path[seen..].to_vec();
        cycle.push(at.to_owned());
        return Some(cycle);
    }
    if done.contains(at) {
        return None;
    }
    path.push(at.to_owned());
    let found = graph.inner(at).find_map(|arrow| walk(graph, &arrow.to, path, done));
    path.pop();
    done.insert(at.to_owned());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"db-pool: db-core, dev db-testkit"`, one line per member; a line `foreign: a, b` for what is not ours.
    fn graph(text: &str) -> Graph {
        let mut graph = Graph::default();
        for (name, list) in text.lines().filter_map(|line| line.trim().split_once(':')) {
            let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
            if name == "foreign" {
                graph.foreign.extend(items.map(str::to_owned));
                continue;
            }
            let arrow = |item: &str| match item.strip_prefix("dev ") {
                Some(to) => Arrow {
                    to: to.to_owned(),
                    dev: true,
                },
                None => Arrow {
                    to: item.to_owned(),
                    dev: false,
                },
            };
            graph.members.insert(name.to_owned(), items.map(arrow).collect());
        }
        graph
    }

    fn found(text: &str) -> Vec<String> {
        findings(&graph(text))
    }

    const GOOD: &str = "
        db-core: sqlx, dev proptest
        db-pool: db-core, sqlx, dev db-testkit
        db-retry: db-core, dev db-testkit
        db-testkit: sqlx
        db-stack: db-core, db-pool, db-retry, dev db-testkit
        db-bench: db-core, db-pool, db-stack, db-testkit
        xtask: clap
        foreign: sqlx, clap, proptest";

    #[test]
    fn the_intended_shape_passes() {
        assert_eq!(found(GOOD), [""; 0]);
    }

    #[test]
    fn each_forbidden_arrow_is_named() {
        let cases = [
            ("db-retry: db-core, db-pool", "db-retry depends on db-pool: a layer"),
            ("db-retry: dev db-pool", "db-retry dev-depends on db-pool: a layer"),
            ("db-pool: db-stack", "db-pool depends on db-stack: a layer"),
            ("db-pool: db-testkit", "db-pool depends on db-testkit: the test kit"),
            ("db-stack: db-testkit", "db-stack depends on db-testkit: the test kit"),
            ("db-stack: dev db-bench", "db-stack dev-depends on db-bench: nothing"),
            (
                "db-core: dev db-testkit",
                "db-core dev-depends on db-testkit: db-core stands alone",
            ),
            ("db-core: db-pool", "db-core depends on db-pool: db-core stands alone"),
            ("xtask: db-core", "xtask depends on db-core: xtask shells out"),
            ("db-bench: xtask", "db-bench depends on xtask: xtask is a tool"),
        ];
        for (line, expected) in cases {
            let all = found(&format!("{GOOD}\n{line}"));
            assert!(all.iter().any(|one| one.starts_with(expected)), "{line}: {all:?}");
        }
    }

    #[test]
    fn a_namesake_from_a_registry_is_an_error_even_before_our_crate_exists() {
        assert_eq!(found("db-stack: db-core\nforeign: db-core, db-leak, db-other").len(), 2);
        assert_eq!(found("db-other: x\nforeign: db-other").len(), 1);
    }

    #[test]
    fn cycles_are_found_through_dev_dependencies_too() {
        let all = found("db-testkit: db-stack\ndb-stack: dev db-testkit");
        assert_eq!(all, ["a cycle: db-stack -> db-testkit -> db-stack"]);
        assert!(cycle(&graph("a: b, c\nb: d\nc: d\nd: e")).is_none());
        assert!(cycle(&graph("a: b\nb: c\nc: b")).is_some());
    }
}
