//! What a function may do, by its name.

use super::{
    TableName,
    builtins::{LEAVES_STATE, PURE, RUNS_ANYTHING, SESSION, TIME, VOLATILE, VOLATILE_PREFIXES},
    found::Found,
};

/// Functions that SQL calls without parentheses.
pub(super) const BARE: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
];

/// Notes a call of the function with this folded name.
///
/// An unqualified name is taken for the built-in: `pg_catalog` comes first in the search path.
pub(super) fn called(found: &mut Found, schema: Option<&str>, name: &str) {
    let has = |list: &[&str]| list.binary_search(&name).is_ok();
    found.leaves_state |= has(&LEAVES_STATE);
    if has(&RUNS_ANYTHING) {
        found.volatile = true;
        found.everything = true;
    }
    let known = schema.is_none_or(|schema| schema == "pg_catalog");
    if known && has(&PURE) {
        return;
    }
    if known && has(&TIME) {
        found.time = true;
    } else if known && has(&SESSION) {
        found.session = true;
    } else if has(&VOLATILE) || VOLATILE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        found.volatile = true;
    } else if !has(&RUNS_ANYTHING) {
        found.calls(TableName {
            schema: schema.map(Into::into),
            name: name.into(),
        });
    }
}

/// Whether a string, quotes included, means another moment each time it is read as a date: `'today'`.
pub(super) fn names_a_moment(text: &str) -> bool {
    const MOMENTS: &[&str] = &["now", "today", "tomorrow", "yesterday"];
    text.len() <= 64
        && text
            .split(|letter: char| !letter.is_ascii_alphabetic())
            .any(|word| MOMENTS.iter().any(|moment| word.eq_ignore_ascii_case(moment)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::builtins::OPERATORS;

    #[test]
    fn lists_are_sorted_for_binary_search_and_name_a_function_once() {
        let lists: [&[&str]; 7] = [
            &PURE,
            &TIME,
            &SESSION,
            &VOLATILE,
            &RUNS_ANYTHING,
            &LEAVES_STATE,
            &OPERATORS,
        ];
        for list in lists {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
        for name in PURE.iter().chain(&TIME).chain(&SESSION) {
            let volatile = VOLATILE.contains(name) || RUNS_ANYTHING.contains(name);
            let twice = PURE.contains(name) && (TIME.contains(name) || SESSION.contains(name));
            assert!(!volatile && !twice, "{name}");
        }
        assert!(BARE.iter().all(|name| TIME.contains(name) || SESSION.contains(name)));
    }
}
