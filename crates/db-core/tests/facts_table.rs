//! A table of SQL texts and their expected facts: each text is followed by an indented line
//! `statements | kind r=reads w=writes flags | summary`. Line breaks inside a text are written as `\\n`.

use db_core::{StatementFacts, TableName};

/// Compares every text of the table with its line, and shows all differences at once.
pub(crate) fn check(table: &str) {
    let mut text = String::new();
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in table.lines().skip(1) {
        match line.strip_prefix("    ") {
            None => text = line.replace("\\n", "\n"),
            Some(expected) => {
                rows += 1;
                let found = signature(&text);
                if found != expected {
                    wrong.push(format!("{text}\n    expected {expected}\n    found    {found}"));
                }
            }
        }
    }
    assert!(
        rows > 0 && wrong.is_empty(),
        "{} of {rows}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn signature(sql: &str) -> String {
    let facts = StatementFacts::of(sql);
    let names = |tables: &[TableName]| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut words = vec![format!("{:?}", facts.kind()).to_lowercase()];
    for (tables, label) in [(facts.reads(), "r="), (facts.writes(), "w=")] {
        if !tables.is_empty() {
            words.push(format!("{label}{}", names(tables)));
        }
    }
    let flags = [
        (facts.touches_everything(), "all"),
        (facts.locking(), "lock"),
        (facts.volatile(), "vol"),
        (facts.opaque_function(), "opaque"),
        (facts.depends_on_time(), "time"),
        (facts.depends_on_session(), "sess"),
        (facts.leaves_session_state(), "state"),
        (facts.leaves_transaction_open(), "open"),
        (facts.is_pure_read(), "pure"),
        (facts.is_self_contained(), "alone"),
    ];
    words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
    format!("{} | {} | {}", facts.statements(), words.join(" "), facts.summary())
        .trim_end()
        .to_owned()
}

#[test]
fn a_table_row() {
    check("\nSELECT 1\n    1 | read pure alone | SELECT\n");
}
