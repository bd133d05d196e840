//! Keeps away from sqlparser what would overflow the stack.
//!
//! Its recursion limit counts parentheses and subqueries. It does not count chains, which it parses in a loop into
//! a tree as deep as they are long (dropped by recursion), and joins that wait for their `ON`, for which it calls
//! itself without any limit (seen in 0.63: `a JOIN a JOIN a …` 3,000 times ends the process).

use super::lex::{Kind, Token};

/// Links of the chains that are open at one place.
const LINKS: u32 = 1000;
/// Joins that wait for their `ON` at one place: `a JOIN b JOIN c ON … ON …`, which hardly anybody writes.
const JOINS: u32 = 4;

/// Words that link expressions or queries without parentheses.
const LINKING: &[&str] = &[
    "and",
    "or",
    "not",
    "is",
    "in",
    "between",
    "like",
    "ilike",
    "similar",
    "collate",
    "at",
    "isnull",
    "notnull",
    "union",
    "except",
    "intersect",
    "overlaps",
    "escape",
    "array",
];

/// What is open on one level of parentheses, or on all of them.
#[derive(Clone, Copy, Default)]
struct Open {
    links: u32,
    joins: u32,
}

/// Whether sqlparser can take this statement.
pub(super) fn is_shallow(sql: &str, tokens: &[Token]) -> bool {
    let (mut outer, mut here, mut all) = (Vec::new(), Open::default(), Open::default());
    let mut before: Option<&Token> = None;
    for token in tokens {
        let link = token.kind == Kind::Op || token.mark(sql, b'.') || token.is_any(sql, LINKING);
        let opens = token.mark(sql, b'(') || token.mark(sql, b'[');
        if link || opens {
            // What stands in front of a bracket may be a link too: `a[1][1]…`.
            (here.links, all.links) = (here.links + 1, all.links + 1);
        }
        if opens {
            outer.push(here);
            here = Open::default();
        } else if token.mark(sql, b')') || token.mark(sql, b']') {
            (all.links, all.joins) = (all.links - here.links, all.joins - here.joins);
            here = outer.pop().unwrap_or_default();
        } else if token.mark(sql, b',') {
            all.links -= here.links;
            here.links = 0;
        } else if token.is(sql, "join") && !before.is_some_and(|before| before.is_any(sql, &["cross", "natural"])) {
            (here.joins, all.joins) = (here.joins + 1, all.joins + 1);
        } else if token.is_any(sql, &["on", "using"]) && here.joins > 0 {
            (here.joins, all.joins) = (here.joins - 1, all.joins - 1);
        }
        if all.links > LINKS || all.joins > JOINS {
            return false;
        }
        before = Some(token);
    }
    true
}
