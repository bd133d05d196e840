//! What tests skipped. nextest hides the output of passing tests, so a test that skips also appends one line
//! `skipped: what (why)` to the file that `DB_STACK_SKIP_LOG` names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The variable that tells tests where to write.
pub(crate) const VARIABLE: &str = "DB_STACK_SKIP_LOG";

/// The file, gone again when this is dropped.
pub(crate) struct SkipLog(PathBuf);

impl SkipLog {
    /// An empty log in `folder`. It lies under `target/`, so that not even SIGKILL leaves a file elsewhere.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("skips-{}.log", std::process::id()));
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Each distinct line with the number of tests that wrote it.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, usize>> {
        let text = fs::read_to_string(&self.0).with_context(|| format!("cannot read {}", self.0.display()))?;
        let mut skips = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            *skips
                .entry(line.strip_prefix("skipped:").unwrap_or(line).trim().to_owned())
                .or_default() += 1;
        }
        Ok(skips)
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // Nobody is left to tell, and the next `cargo clean` takes it.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_the_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = SkipLog::create(folder.path()).unwrap();
        let path = log.path().to_owned();
        assert!(log.read().unwrap().is_empty());
        fs::write(&path, "skipped: a (b)\nskipped: a (b)\n\nc\n").unwrap();
        let skips = log.read().unwrap();
        assert_eq!(
            skips.into_iter().collect::<Vec<_>>(),
            [("a (b)".to_owned(), 2), ("c".to_owned(), 1)]
        );
        drop(log);
        assert!(!path.exists());
    }
}
