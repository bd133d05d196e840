//! Writes `docs/monitoring/` from the registry of metrics: `cargo xtask dashboards`. With `--check` it only says which
//! pages are out of date.

use db_metrics::monitoring::pages;
use std::{fs, io, path::Path, process::ExitCode};

fn main() -> io::Result<ExitCode> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring");
    let check = std::env::args().any(|argument| argument == "--check");
    fs::create_dir_all(&folder)?;
    let mut stale = 0;
    for page in pages() {
        let path = folder.join(&page.name);
        if fs::read_to_string(&path).is_ok_and(|text| text == page.text) {
            continue;
        }
        stale += 1;
        println!("{} {}", if check { "out of date:" } else { "written:" }, page.name);
        if !check {
            fs::write(path, page.text)?;
        }
    }
    Ok(if check && stale > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
