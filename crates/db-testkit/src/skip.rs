//! What a test or proof leaves out, said where it is seen.

use std::{env, fs::OpenOptions, io::Write};

/// Says that `what` is not tested here and why: on stderr, and in the file that `DB_STACK_SKIP_LOG` names, since runners
/// hide the output of what passes. With `DB_STACK_REQUIRE_ALL=1` the runner makes it a failure.
pub fn skip(what: &str, why: &str) {
    let line = format!("skipped: {what} ({why})\n");
    eprint!("{line}");
    let log = env::var_os("DB_STACK_SKIP_LOG").filter(|path| !path.is_empty());
    if let Some(path) = log
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write each: tests append side by side. A skip that can't be logged has been printed.
        let _ = file.write_all(line.as_bytes());
    }
}
