//! Rewrites PostgreSQL forms that sqlparser can't parse into forms that mean the same for the facts, and hides
//! the literals.

use super::{
    depth::is_shallow,
    lex::{Kind, Token},
};

/// Words that begin a query.
pub(super) const QUERY: &[&str] = &[
    "select", "with", "values", "table", "insert", "update", "delete", "merge",
];

/// The statement's text for sqlparser, or `None` when it is too deep for it.
pub(super) fn ease(sql: &str, tokens: &[Token]) -> Option<String> {
    is_shallow(sql, tokens).then(|| Ease { sql, tokens }.rewrite())
}

struct Ease<'a> {
    sql: &'a str,
    tokens: &'a [Token],
}

enum Step {
    Keep,
    /// Writes this instead of so many tokens.
    Put(&'static str, usize),
}

impl Ease<'_> {
    fn is(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(self.sql, word))
    }

    fn is_any(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_any(self.sql, words))
    }

    fn mark(&self, at: usize, mark: u8) -> bool {
        self.tokens.get(at).is_some_and(|token| token.mark(self.sql, mark))
    }

    fn name(&self, at: usize) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|token| matches!(token.kind, Kind::Word | Kind::Quoted))
    }

    fn rewrite(&self) -> String {
        let mut out = String::new();
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            if token.apart {
                out.push('\n');
            } else if at > 0 && self.tokens[at - 1].end < token.start {
                out.push(' ');
            }
            match self.step(at) {
                Step::Put(text, taken) => {
                    out.push_str(text);
                    out.push(' ');
                    at += taken;
                }
                Step::Keep => {
                    // sqlparser logs what it parses at debug level: it gets no literal to log.
                    out.push_str(match token.kind {
                        Kind::Text if at > 0 && token.apart && self.tokens[at - 1].kind == Kind::Text => "",
                        Kind::Text => "'s'",
                        Kind::Number => "1",
                        _ => token.text(self.sql),
                    });
                    at += 1;
                }
            }
        }
        out
    }

    fn step(&self, at: usize) -> Step {
        let Some(token) = self.tokens.get(at) else {
            return Step::Keep;
        };
        if at > 0 && self.mark(at - 1, b'.') {
            return Step::Keep;
        }
        match token.kind {
            Kind::Word => self.word(at, token),
            // `(row).*` reads like `(row)` for every question asked here.
            Kind::Mark if at > 0 && self.mark(at, b'.') && self.mark(at - 1, b')') && self.op(at + 1, "*") => {
                Step::Put("", 2)
            }
            _ => Step::Keep,
        }
    }

    fn op(&self, at: usize, op: &str) -> bool {
        self.tokens
            .get(at)
            .is_some_and(|token| token.kind == Kind::Op && token.text(self.sql) == op)
    }

    fn word(&self, at: usize, token: &Token) -> Step {
        let before = |words: &[&str]| at > 0 && self.is_any(at - 1, words);
        match token.text(self.sql).to_ascii_lowercase().as_str() {
            "table" if self.table_query(at) => Step::Put("SELECT * FROM", 1),
            "only" if !before(&["row", "rows", "as"]) => self.only(at),
            "no" if before(&["for"]) && self.is(at + 1, "key") => Step::Put("", 2),
            "key" if before(&["for"]) && self.is(at + 1, "share") => Step::Put("", 1),
            "of" if before(&["update", "share"]) && at > 1 && self.is_any(at - 2, &["for", "key"]) => {
                Step::Put("", self.names(at + 1) + 1)
            }
            "overriding" if self.is_any(at + 1, &["system", "user"]) && self.is(at + 2, "value") => Step::Put("", 3),
            "conflict" if before(&["on"]) && self.mark(at + 1, b'(') => self.conflict(at),
            "current" if before(&["where"]) && self.is(at + 1, "of") => Step::Put("TRUE", 3),
            "exclude" if before(&["row", "preceding", "following"]) => self.exclude(at),
            "symmetric" if before(&["between"]) => Step::Put("", 1),
            "document" if before(&["is", "not"]) => Step::Put("NULL", 1),
            "local" if before(&["at"]) => Step::Put("TIME ZONE 'UTC'", 1),
            "variadic" => Step::Put("", 1),
            "distinct" if before(&["by"]) => Step::Put("", 1),
            "as" if self.record(at) => Step::Put("AS row_", 1),
            "default" if before(&["insert"]) && self.is(at + 1, "values") => Step::Put("VALUES (DEFAULT)", 2),
            _ => Step::Keep,
        }
    }

    /// `TABLE t` as a query, not the `TABLE` of `INTO TABLE t`.
    fn table_query(&self, at: usize) -> bool {
        let other = ["as", "into", "temp", "temporary", "unlogged", "local", "global"];
        self.name(at + 1) && (at == 0 || !self.is_any(at - 1, &other))
    }

    /// `ONLY t` and `ONLY (t)`: the same table.
    fn only(&self, at: usize) -> Step {
        if !self.mark(at + 1, b'(') {
            return if self.name(at + 1) {
                Step::Put("", 1)
            } else {
                Step::Keep
            };
        }
        // The parentheses can't be dropped from here, but sqlparser takes a query in them.
        if self.name(at + 2) {
            Step::Put("(SELECT * FROM", 2)
        } else {
            Step::Keep
        }
    }

    /// `EXCLUDE TIES` and its kin, behind the bounds of a window's frame.
    fn exclude(&self, at: usize) -> Step {
        let pair = |one, two| self.is(at + 1, one) && self.is(at + 2, two);
        if self.is_any(at + 1, &["ties", "group"]) {
            Step::Put("", 2)
        } else if pair("current", "row") || pair("no", "others") {
            Step::Put("", 3)
        } else {
            Step::Keep
        }
    }

    /// How many tokens a list of table names takes.
    fn names(&self, from: usize) -> usize {
        let mut at = from;
        while self.name(at) {
            at += 1;
            if !(self.mark(at, b',') || self.mark(at, b'.')) {
                break;
            }
            at += 1;
        }
        at - from
    }

    /// `ON CONFLICT (…) WHERE … DO`: a target names an index, whose expressions are immutable.
    fn conflict(&self, at: usize) -> Step {
        let mut depth = 0_usize;
        for (taken, token) in self.tokens[at..].iter().enumerate() {
            if token.mark(self.sql, b'(') {
                depth += 1;
            } else if token.mark(self.sql, b')') {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && token.is(self.sql, "do") {
                return Step::Put("CONFLICT", taken);
            }
        }
        Step::Keep
    }

    /// `f(…) AS (a int)`: sqlparser wants a name there. A CTE's `AS (` is followed by a query.
    fn record(&self, at: usize) -> bool {
        at > 0
            && self.mark(at - 1, b')')
            && self.mark(at + 1, b'(')
            && self.name(at + 2)
            && !self.is_any(at + 2, QUERY)
            && !self.mark(at + 3, b')')
    }
}
