//! Every Rust block of the documents compiles; settings are read, proofs and files that they name are there.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_stack::DbConfig;
use std::{
    fs,
    path::{Path, PathBuf},
};

mod prelude {
    #![allow(unused_imports, reason = "each block uses a part of it")]
    pub(crate) use db_stack::*;
    pub(crate) use std::{sync::Arc, time::Duration};
}

include!(concat!(env!("OUT_DIR"), "/blocks.rs"));

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn documents() -> Vec<(String, String)> {
    let mut files = vec![root().join("README.md")];
    for folder in ["docs", "docs/guides"] {
        files.extend(
            fs::read_dir(root().join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files
        .into_iter()
        .map(|file| (file.display().to_string(), fs::read_to_string(&file).unwrap()))
        .collect()
}

#[test]
fn every_block_of_settings_can_be_used() {
    let mut blocks = 0;
    for (name, text) in documents() {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // Manifests of cargo, and the reference, which shows a sketch.
            if block.contains("[dependencies]") || name.ends_with("configuration.md") {
                continue;
            }
            blocks += 1;
            let read = DbConfig::from_toml_str(block);
            assert!(read.is_ok(), "{name}:\n{block}\n{}", read.unwrap_err());
        }
    }
    assert!(blocks >= 5, "{blocks}");
}

#[test]
fn every_proof_that_is_named_is_there() {
    let proofs = fs::read_to_string(root().join("crates/db-bench/src/prove.rs")).unwrap();
    let mut named = 0;
    for (name, text) in documents() {
        for rest in text.split("cargo xtask prove ").skip(1) {
            let proof: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            if proof.is_empty() {
                continue;
            }
            named += 1;
            assert!(proofs.contains(&format!("name: \"{proof}\"")), "{name}: {proof}");
        }
    }
    assert!(named >= 10, "{named}");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    for (name, text) in documents() {
        let folder = Path::new(&name).parent().unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#', ' ']).next().unwrap();
            if !link.is_empty() && !link.contains("://") {
                assert!(folder.join(link).exists(), "{name}: {link}");
            }
        }
    }
}
