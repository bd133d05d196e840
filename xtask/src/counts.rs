//! How many tests ran: read from nextest's JUnit file and from `cargo test`'s closing lines.

use std::fmt;
use std::ops::AddAssign;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    pub(crate) fn total(self) -> u64 {
        self.passed + self.failed
    }

    /// From a line of `cargo test`: `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let number = |word: &str| {
            let field = counts
                .split(';')
                .map(str::trim)
                .find_map(|field| field.strip_suffix(word))?;
            field.trim().parse().ok()
        };
        Some(Self {
            passed: number(" passed")?,
            failed: number(" failed")?,
        })
    }

    /// From a JUnit file, whose opening tag carries the totals.
    pub(crate) fn of_junit(xml: &str) -> Option<Self> {
        let tag = xml.split_once("<testsuites ")?.1.split_once('>')?.0;
        let number = |name: &str| -> Option<u64> {
            tag.split_once(&format!(" {name}=\""))?
                .1
                .split_once('"')?
                .0
                .parse()
                .ok()
        };
        let failed = number("failures")? + number("errors")?;
        Some(Self {
            passed: number("tests")?.saturating_sub(failed),
            failed,
        })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tests_closing_line() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(Counts::of_line(line), Some(Counts { passed: 5, failed: 2 }));
        assert_eq!(Counts::of_line("running 3 tests"), None);
        assert_eq!(Counts::of_line("test result: ok"), None);
    }

    #[test]
    fn junit_totals() {
        let xml = r#"<?xml version="1.0"?><testsuites name="nextest-run" tests="12" failures="1" errors="2" uuid="x">"#;
        assert_eq!(Counts::of_junit(xml), Some(Counts { passed: 9, failed: 3 }));
        assert_eq!(Counts::of_junit("<html>"), None);
    }
}
