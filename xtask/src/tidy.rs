//! House rules that no compiler knows: short files, inherited manifests, documented crates, a fixed top level, and
//! no path of someone's machine in the repository.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cargo;
use crate::check::Outcome;
use crate::manifests;

/// Lines of a file: a warning above the first, an error above the second.
const LONG: usize = 400;
const TOO_LONG: usize = 500;
const TOP_LEVEL: [&str; 7] = [
    "Cargo.toml",
    "README.md",
    "crates",
    "deny.toml",
    "docs",
    "migrations",
    "xtask",
];
/// Top folders under which machines keep people's files and checkouts.
const PRIVATE_FOLDERS: [&str; 5] = ["root", "home", "Users", "work", "workspace"];

#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

pub(crate) fn check() -> Result<Outcome> {
    let Some(files) = repository_files()? else {
        return Ok(Outcome::Skipped(
            "tidy: this is not a git checkout (it looks at what git would commit)".to_owned(),
        ));
    };
    let mut found = Findings {
        errors: top_level(&files),
        ..Findings::default()
    };
    for file in &files {
        // A file that is deleted but not yet committed, or one that is no text, has nothing to check.
        if let Ok(text) = fs::read_to_string(cargo::root().join(file)) {
            found.look_at(file, &text);
        }
    }
    for warning in &found.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(Outcome::of_findings(&found.errors))
}

/// What git tracks or would add; none outside a checkout.
pub(crate) fn repository_files() -> Result<Option<Vec<String>>> {
    let mut git = Command::new("git");
    git.current_dir(cargo::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]);
    let output = git.stdin(Stdio::null()).output().context("cannot run git")?;
    if !output.status.success() {
        return Ok(None);
    }
    let list = String::from_utf8(output.stdout).context("a file name that is not UTF-8")?;
    let exists = |file: &&str| !file.is_empty() && cargo::root().join(file).symlink_metadata().is_ok();
    Ok(Some(list.split('\0').filter(exists).map(str::to_owned).collect()))
}

fn top_level(files: &[String]) -> Vec<String> {
    let present: BTreeSet<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    let missing = TOP_LEVEL
        .iter()
        .filter(|name| !present.contains(**name))
        .map(|name| format!("{name} is missing"));
    let strangers = present
        .iter()
        .filter(|name| !belongs(name))
        .map(|name| format!("{name} is not for the top level"));
    missing.chain(strangers).collect()
}

fn belongs(name: &str) -> bool {
    TOP_LEVEL.contains(&name)
        || name.starts_with('.')
        || name.starts_with("LICENSE")
        || matches!(name, "Cargo.lock" | "CHANGELOG.md" | "target")
}

impl Findings {
    fn look_at(&mut self, file: &str, text: &str) {
        if file.ends_with(".rs") {
            match text.lines().count() {
                lines if lines > TOO_LONG => self.errors.push(format!("{file}: {lines} lines, at most {LONG}")),
                lines if lines > LONG => self.warnings.push(format!("{file}: {lines} lines, at most {LONG}")),
                _ => {}
            }
        }
        if file.ends_with("src/lib.rs") && !text.starts_with("//!") {
            self.errors
                .push(format!("{file}: must start with //! and say what the crate is for"));
        }
        if file.ends_with("/Cargo.toml") {
            self.errors.extend(
                manifests::findings(text)
                    .into_iter()
                    .map(|finding| format!("{file}: {finding}")),
            );
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(folder) = private_path(line) {
                self.errors
                    .push(format!("{file}:{}: a path of one machine: /{folder}/", number + 1));
            }
        }
    }
}

/// The private top folder that an absolute path in this line starts with.
fn private_path(line: &str) -> Option<&'static str> {
    // Inside a longer path or a URL the folder is not the top one.
    let inside = |before: &str| {
        before.ends_with(|c: char| {
            c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '}' | ')' | '*' | '~' | '$')
        })
    };
    PRIVATE_FOLDERS.into_iter().find(|folder| {
        line.match_indices(&format!("/{folder}/"))
            .any(|(at, _)| !inside(&line[..at]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> (usize, usize) {
        let mut findings = Findings::default();
        findings.look_at(file, text);
        (findings.errors.len(), findings.warnings.len())
    }

    #[test]
    fn long_files_warn_then_fail() {
        assert_eq!(found("a.rs", &"x\n".repeat(400)), (0, 0));
        assert_eq!(found("a.rs", &"x\n".repeat(401)), (0, 1));
        assert_eq!(found("a.rs", &"x\n".repeat(501)), (1, 0));
        assert_eq!(found("a.md", &"x\n".repeat(501)), (0, 0));
    }

    #[test]
    fn a_library_says_what_it_is() {
        assert_eq!(found("crates/db-x/src/lib.rs", "//! Words.\n"), (0, 0));
        assert_eq!(found("crates/db-x/src/lib.rs", "mod a;\n"), (1, 0));
    }

    #[test]
    fn the_top_level_is_fixed() {
        let files = |extra: &[&str]| {
            let all = [
                "Cargo.toml",
                "Cargo.lock",
                "LICENSE-MIT",
                "README.md",
                "deny.toml",
                ".ci/run",
                "crates/a/b.rs",
            ];
            let rest = ["docs/a.md", "migrations/1.sql", "xtask/Cargo.toml", "CHANGELOG.md"];
            all.iter()
                .chain(&rest)
                .chain(extra)
                .map(|file| (*file).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(top_level(&files(&[])), [""; 0]);
        assert_eq!(
            top_level(&files(&["scripts/x.sh"])),
            ["scripts is not for the top level"]
        );
        assert_eq!(top_level(&files(&[])[1..]), ["Cargo.toml is missing"]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let path = |folder: &str| format!("/{folder}/x");
        for folder in PRIVATE_FOLDERS {
            let bare = path(folder);
            for line in [
                bare.clone(),
                format!("see {bare}"),
                format!("\"{bare}\""),
                format!("url=file:{bare}"),
            ] {
                assert_eq!(private_path(&line), Some(folder), "{line}");
            }
            for line in [
                format!("target{bare}"),
                format!("https://example.com{bare}"),
                format!("$DIR{bare}"),
                format!("./a{bare}"),
            ] {
                assert_eq!(private_path(&line), None, "{line}");
            }
        }
        assert_eq!(private_path("/usr/lib/postgresql"), None);
    }
}
