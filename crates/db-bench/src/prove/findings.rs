//! What a proof has measured, beside what was promised.

use std::fmt::Display;

use crate::prove::Verdict;

/// Collects figures; one that does not hold fails the proof.
pub(crate) struct Findings {
    passed: bool,
    figures: Vec<String>,
    /// Before the names of figures in the last line.
    section: &'static str,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Self {
            passed: true,
            figures: Vec::new(),
            section: "",
        }
    }

    /// What follows is measured again, in another situation.
    pub(crate) fn section(&mut self, name: &'static str) {
        self.section = name;
    }

    /// A figure with a promise.
    pub(crate) fn expect(&mut self, what: &str, measured: impl Display, promised: impl Display, holds: bool) {
        let mark = if holds { "ok" } else { "NO" };
        println!("  {mark}  {what}: {measured} (promised: {promised})");
        self.passed &= holds;
        self.figures
            .push(format!("{}{}={}", self.section, key(what), key(&measured.to_string())));
    }

    /// Something is not proved for want of a tool; where all of it is required, that fails the proof.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        db_testkit::skip(what, why);
        if std::env::var_os("DB_STACK_REQUIRE_ALL").is_some_and(|value| value == "1") {
            self.expect(what, why, "proved", false);
        }
    }

    /// A figure that is shown for comparison.
    pub(crate) fn note(&mut self, what: &str, measured: impl Display) {
        println!("      {what}: {measured}");
        self.figures
            .push(format!("{}{}={}", self.section, key(what), key(&measured.to_string())));
    }

    pub(crate) fn verdict(self) -> Verdict {
        Verdict {
            passed: self.passed,
            figures: self.figures.join(" "),
        }
    }
}

/// One word, so that the last line can be split at its spaces.
fn key(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_fails_the_proof_and_figures_are_words() {
        let mut findings = Findings::new();
        findings.expect("lost rows", 0, "0", true);
        findings.note("took", "1 ms");
        findings.expect("hung", 1, "0", false);
        let verdict = findings.verdict();
        assert!(!verdict.passed);
        assert_eq!(verdict.figures, "lost-rows=0 took=1-ms hung=1");
    }
}
