//! Reads a statement's tokens from left to right.

use super::{
    TableName,
    found::fold,
    lex::{Kind, Token},
};

/// A place in a statement.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) sql: &'a str,
    pub(super) rest: &'a [Token],
}

impl<'a> Tokens<'a> {
    /// Whether this keyword comes next.
    pub(super) fn at(&self, word: &str) -> bool {
        self.rest.first().is_some_and(|token| token.is(self.sql, word))
    }

    /// Whether this keyword comes after the next token.
    pub(super) fn second(&self, word: &str) -> bool {
        self.rest.get(1).is_some_and(|token| token.is(self.sql, word))
    }

    pub(super) fn at_any(&self, words: &[&str]) -> bool {
        self.rest.first().is_some_and(|token| token.is_any(self.sql, words))
    }

    pub(super) fn at_mark(&self, mark: u8) -> bool {
        self.rest.first().is_some_and(|token| token.mark(self.sql, mark))
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// Steps over this keyword if it comes next.
    pub(super) fn eat(&mut self, word: &str) -> bool {
        self.eat_any(&[word])
    }

    /// Steps over one of these keywords if it comes next.
    pub(super) fn eat_any(&mut self, words: &[&str]) -> bool {
        let there = self.at_any(words);
        self.skip(usize::from(there));
        there
    }

    /// Steps over this character if it comes next.
    pub(super) fn eat_mark(&mut self, mark: u8) -> bool {
        let there = self.at_mark(mark);
        self.skip(usize::from(there));
        there
    }

    /// Steps over `IF EXISTS` or `IF NOT EXISTS`.
    pub(super) fn eat_if_exists(&mut self) {
        if self.eat("if") {
            self.eat("not");
            self.eat("exists");
        }
    }

    /// Whether the keyword stands anywhere from here on.
    pub(super) fn has(&self, word: &str) -> bool {
        self.rest.iter().any(|token| token.is(self.sql, word))
    }

    /// Steps over a balanced pair of parentheses that begins here.
    pub(super) fn skip_parens(&mut self) {
        let mut depth = 0_u32;
        for (at, token) in self.rest.iter().enumerate() {
            depth += u32::from(token.mark(self.sql, b'('));
            depth -= u32::from(depth > 0 && token.mark(self.sql, b')'));
            if depth == 0 {
                return self.skip(if at == 0 { 0 } else { at + 1 });
            }
        }
        self.rest = &[];
    }

    /// The first place from here, outside of parentheses, that the predicate likes.
    pub(super) fn find(&self, likes: impl Fn(&Tokens<'a>) -> bool) -> Option<Tokens<'a>> {
        let mut here = *self;
        while !here.rest.is_empty() {
            if likes(&here) {
                return Some(here);
            }
            let before = here.rest.len();
            here.skip_parens();
            if here.rest.len() == before {
                here.skip(1);
            }
        }
        None
    }

    fn part(&mut self) -> Option<Box<str>> {
        let token = self.rest.first()?;
        let text = token.text(self.sql);
        let name = match token.kind {
            Kind::Word => fold(text, false),
            // `U&"…"` has escapes of its own, which nobody uses.
            Kind::Quoted => fold(&text.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\""), true),
            _ => return None,
        };
        self.skip(1);
        Some(name)
    }

    /// A table's name with its schema, `ONLY` before it and `*` behind it.
    pub(super) fn table(&mut self) -> Option<TableName> {
        if self.at("only") && self.rest.len() > 1 {
            self.skip(1);
        }
        let parens = self.eat_mark(b'(');
        let mut schema = None;
        let mut name = self.part()?;
        for _ in 0..2 {
            if self.eat_mark(b'.') {
                schema = Some(std::mem::replace(&mut name, self.part()?));
            }
        }
        if parens && !self.eat_mark(b')') {
            return None;
        }
        if self
            .rest
            .first()
            .is_some_and(|token| token.kind == Kind::Op && token.text(self.sql) == "*")
        {
            self.skip(1);
        }
        Some(TableName { schema, name })
    }

    /// Names separated by commas.
    pub(super) fn tables(&mut self) -> Option<Vec<TableName>> {
        let mut tables = vec![self.table()?];
        while self.eat_mark(b',') {
            tables.push(self.table()?);
        }
        Some(tables)
    }
}
