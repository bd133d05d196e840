//! The public names of every library, as rustdoc sees them, beside those that were agreed on: `docs/api.txt`.
//!
//! Names of items with their methods, fields and variants, without signatures: enough to notice on stable Rust, without a
//! network, that something is public which was not meant to be, or has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::check::Outcome;
use crate::{cargo, child};

/// The agreed names.
const AGREED: &str = "docs/api.txt";
/// Not for anybody's use.
const PRIVATE: [&str; 4] = ["db_bench", "db_testkit", "docs", "xtask"];
/// What the pages say of an item's parts.
const PARTS: [(&str, &str); 5] = [
    ("method", "id=\"method."),
    ("method", "id=\"tymethod."),
    ("field", "id=\"structfield."),
    ("variant", "id=\"variant."),
    ("type", "id=\"associatedtype."),
];

/// After `cargo doc`, which the step before runs. What has gone breaks somebody's code and fails; what is new is told.
pub(crate) fn check() -> Result<Outcome> {
    let public = public()?;
    let agreed = fs::read_to_string(cargo::root().join(AGREED)).unwrap_or_default();
    let (gone, new) = differences(&agreed, &public);
    for line in &new {
        eprintln!("warning: newly public: {line}");
    }
    if !new.is_empty() || !gone.is_empty() {
        eprintln!("note: if that was meant: cargo xtask api, and commit {AGREED}");
    }
    let gone: Vec<_> = gone.iter().map(|line| format!("no longer public: {line}")).collect();
    Ok(Outcome::of_findings(&gone))
}

/// `cargo xtask api`: writes the names down, to be looked at as a difference in review.
pub(crate) fn write() -> Result<ExitCode> {
    child::watch()?;
    let mut doc = cargo::cargo_at_root();
    doc.args(["doc", "--quiet", "--no-deps", "--workspace"]);
    if !child::run(&mut doc)?.success() {
        return Ok(ExitCode::FAILURE);
    }
    fs::write(cargo::root().join(AGREED), public()?)?;
    println!("wrote {AGREED}");
    Ok(ExitCode::SUCCESS)
}

/// What is agreed and no longer there, and what is there and not agreed.
fn differences(agreed: &str, public: &str) -> (Vec<String>, Vec<String>) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (agreed, public) = (lines(agreed), lines(public));
    let gone = agreed.difference(&public).cloned().collect();
    (gone, public.difference(&agreed).cloned().collect())
}

fn public() -> Result<String> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| cargo::root().join("target"), PathBuf::from);
    let mut crates = BTreeMap::new();
    for entry in fs::read_dir(cargo::root().join("crates"))? {
        let name = entry?.file_name().to_string_lossy().replace('-', "_");
        if !PRIVATE.contains(&name.as_str()) {
            let folder = target.join("doc").join(&name);
            let all = fs::read_to_string(folder.join("all.html"))
                .with_context(|| format!("{name} has no documentation: cargo doc --no-deps --workspace"))?;
            crates.insert(name, (folder, all));
        }
    }
    let mut out = String::new();
    for (name, (folder, all)) in crates {
        for link in links(&all) {
            item(&name, &folder, link, &mut out);
        }
    }
    Ok(out)
}

/// The pages that the list of all items leads to.
fn links(all: &str) -> Vec<&str> {
    let lists = all.split("<ul class=\"all-items\">").skip(1);
    let lists = lists.filter_map(|list| list.split("</ul>").next());
    let mut links: Vec<_> = lists
        .flat_map(|list| list.split("href=\"").skip(1))
        .filter_map(|link| link.split('"').next())
        .collect();
    links.sort_unstable();
    links
}

/// One line for an item, and one for each of its parts: `db_core::config::Mode enum`, `db_core::config::Mode.is_off method`.
fn item(library: &str, folder: &Path, link: &str, out: &mut String) {
    let (path, file) = link.rsplit_once('/').unwrap_or(("", link));
    let mut words = file.split('.');
    let (Some(kind), Some(name)) = (words.next(), words.next()) else {
        return;
    };
    let path: String = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| format!("{part}::"))
        .collect();
    let full = format!("{library}::{path}{name}");
    // Writing to a String can't fail.
    let _ = writeln!(out, "{full} {kind}");
    let page = fs::read_to_string(folder.join(link)).unwrap_or_default();
    let mut parts: Vec<_> = parts(&page).into_iter().collect();
    parts.sort_unstable();
    for (part, kind) in parts {
        let _ = writeln!(out, "{full}.{part} {kind}");
    }
}

/// What the item has of its own: traits that it implements are another matter.
fn parts(page: &str) -> BTreeSet<(String, &'static str)> {
    let own = page.split("id=\"trait-implementations\"").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    for (kind, mark) in PARTS {
        for rest in own.split(mark).skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // The fields of a variant have ids of their own, which begin as the variant's does.
            found.insert((name, kind));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_parts_are_found() {
        let all = "<h3>Structs</h3><ul class=\"all-items\"><li><a href=\"struct.B.html\">B</a></li>\
                   <li><a href=\"config/enum.A.html\">config::A</a></li></ul>";
        assert_eq!(links(all), ["config/enum.A.html", "struct.B.html"]);
        let page = "<section id=\"method.new\"><section id=\"structfield.size\"><h2 id=\"trait-implementations\">\
                    <section id=\"method.fmt\">";
        let found: Vec<_> = parts(page).into_iter().collect();
        assert_eq!(found, [("new".to_owned(), "method"), ("size".to_owned(), "field")]);
    }

    #[test]
    fn what_came_and_went_is_told() {
        assert_eq!(differences("a\nb\n", "a\nb\n"), (vec![], vec![]));
        let (gone, new) = differences("a\nb\n", "b\nc\n");
        assert_eq!((gone, new), (vec!["a".to_owned()], vec!["c".to_owned()]));
    }
}
