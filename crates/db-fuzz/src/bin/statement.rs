//! SQL texts: nothing panics, and a statement behind another is never overlooked.
#![cfg_attr(fuzzing, no_main)]

use db_core::StatementFacts;

/// What is behind a text of any kind must be seen, or the text must not be understood.
const BEHIND: &str = "\n; DROP TABLE accounts";

db_fuzz::target!(|text: &str| {
    let facts = StatementFacts::of(text);
    assert!(!facts.is_pure_read() || facts.writes().is_empty());
    let both = StatementFacts::of(&format!("{text}{BEHIND}"));
    assert!(!both.is_pure_read(), "a read: {text:?}{BEHIND:?}");
    let same = StatementFacts::of(text);
    assert_eq!(
        (facts.fingerprint(), facts.normalized()),
        (same.fingerprint(), same.normalized())
    );
});
