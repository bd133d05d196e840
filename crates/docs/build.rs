//! Takes the Rust blocks out of the documents and makes a module of each, for the test of this crate.
//!
//! A block is the body of an `async fn(db: Db)` that may use `?`, or a program if it has a `main`. What a reader need not
//! see stands before it in a comment: `<!-- with: let id = 7; -->`.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![root.join("README.md")];
    for folder in ["docs", "docs/guides"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        for entry in fs::read_dir(root.join(folder))? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut out = String::new();
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        modules(&root, file, &fs::read_to_string(file)?, &mut out);
    }
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("blocks.rs");
    fs::write(target, out)
}

fn modules(root: &Path, file: &Path, text: &str, out: &mut String) {
    let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
    let word: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    let (mut block, mut with, mut inside) = (String::new(), String::new(), None);
    for (number, line) in text.lines().enumerate() {
        match (&inside, line.trim_start().strip_prefix("```")) {
            (None, Some(kind)) => {
                inside = Some((kind.to_owned(), number + 1));
                block.clear();
            }
            (Some((kind, first)), Some(_)) => {
                if kind.starts_with("rust") && !kind.contains("ignore") {
                    // Writing to a String can't fail.
                    let _ = module(
                        &format!("{word}_{first}"),
                        &format!("{name}:{first}"),
                        &with,
                        &block,
                        out,
                    );
                }
                inside = None;
                with.clear();
            }
            (Some(_), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => match line.trim().strip_prefix("<!-- with:") {
                Some(code) => with = code.trim_end_matches("-->").to_owned(),
                None if line.trim().is_empty() => {}
                None => with.clear(),
            },
        }
    }
}

fn module(name: &str, place: &str, with: &str, block: &str, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "/// {place}\n#[allow(warnings, clippy::all)]\nmod {name} {{\nuse crate::prelude::*;"
    )?;
    if block.contains("fn main(") {
        writeln!(out, "{with}\n{block}")?;
    } else {
        writeln!(
            out,
            "async fn block(db: Db) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {{\n{with}\n{block}\nOk(())\n}}"
        )?;
    }
    writeln!(out, "}}\n")
}
