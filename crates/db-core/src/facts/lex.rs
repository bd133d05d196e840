//! PostgreSQL's lexical rules: where tokens begin and end, in one pass, without allocation, for any text.
//!
//! sqlparser gets whole statements; what has to hold for texts that it can't parse (fingerprints, the split into
//! statements, utility statements) is decided on these tokens.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or an unquoted name.
    Word,
    /// A quoted name, with its quotes.
    Quoted,
    /// A string of any form; `apart` says that a line break stands before it.
    Text,
    /// A number.
    Number,
    /// `$1`.
    Param,
    /// An operator, `::`, `:=` and `=>` included.
    Op,
    /// One other character.
    Mark,
    /// A string, quoted name or comment without its end: the rest of the text.
    Broken,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether a line break stands between this token and the one before.
    pub(super) apart: bool,
}

impl Token {
    /// The token's text.
    pub(super) fn text<'a>(&self, sql: &'a str) -> &'a str {
        sql.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it is this keyword, in any letter case.
    pub(super) fn is(&self, sql: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(word)
    }

    /// Whether it is one of these keywords.
    pub(super) fn is_any(&self, sql: &str, words: &[&str]) -> bool {
        self.kind == Kind::Word && words.iter().any(|word| self.text(sql).eq_ignore_ascii_case(word))
    }

    /// Whether it is this character.
    pub(super) fn mark(&self, sql: &str, mark: u8) -> bool {
        self.kind == Kind::Mark && sql.as_bytes().get(self.start) == Some(&mark)
    }
}

/// Yields the tokens of a text, without white space and comments.
#[derive(Clone)]
pub(super) struct Lexer<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.sql.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        let rest = self.sql.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|byte| !accept(*byte)).unwrap_or(rest.len());
    }

    /// Skips white space and comments; `None` when a comment has no end.
    fn skip_blank(&mut self) -> Option<bool> {
        let from = self.at;
        loop {
            match (self.byte(0), self.byte(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'-', b'-') => self.skip_while(|byte| byte != b'\n' && byte != b'\r'),
                (b'/', b'*') if !self.skip_comment() => return None,
                (b'/', b'*') => {}
                _ => break,
            }
        }
        Some(self.sql.as_bytes()[from..self.at].contains(&b'\n'))
    }

    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_u32;
        while self.at < self.sql.len() {
            match (self.byte(0), self.byte(1)) {
                (b'/', b'*') => (depth, self.at) = (depth + 1, self.at + 2),
                (b'*', b'/') => (depth, self.at) = (depth - 1, self.at + 2),
                _ => self.at += 1,
            }
            if depth == 0 {
                return true;
            }
        }
        false
    }

    /// Skips to the end of a quoted piece whose opening quote is at `at`.
    fn skip_quoted(&mut self, quote: u8, escapes: bool, good: Kind) -> Kind {
        self.at += 1;
        while self.at < self.sql.len() {
            let byte = self.byte(0);
            self.at += 1;
            if escapes && byte == b'\\' {
                self.at += 1;
            } else if byte == quote {
                if self.byte(0) != quote {
                    return good;
                }
                self.at += 1;
            }
        }
        self.at = self.sql.len();
        Kind::Broken
    }

    fn skip_dollar(&mut self) -> Kind {
        let start = self.at;
        self.at += 1;
        if self.byte(0).is_ascii_digit() {
            self.skip_while(|byte| byte.is_ascii_digit());
            return Kind::Param;
        }
        self.skip_while(|byte| is_name(byte) && byte != b'$');
        if self.byte(0) != b'$' {
            self.at = start + 1;
            return Kind::Mark;
        }
        self.at += 1;
        let tag = &self.sql[start..self.at];
        match self.sql[self.at..].find(tag) {
            Some(end) => self.at += end + tag.len(),
            None => self.at = self.sql.len(),
        }
        if self.sql[start + tag.len()..self.at].ends_with(tag) {
            Kind::Text
        } else {
            Kind::Broken
        }
    }

    fn skip_number(&mut self) {
        if self.byte(0) == b'0' && matches!(self.byte(1) | 0x20, b'x' | b'o' | b'b') {
            self.at += 2;
            return self.skip_while(|byte| byte.is_ascii_hexdigit() || byte == b'_');
        }
        let digit = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        self.skip_while(digit);
        // `1..2` is a range in PL/pgSQL, not a fraction.
        if self.byte(0) == b'.' && self.byte(1) != b'.' {
            self.at += 1;
            self.skip_while(digit);
        }
        let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
        if matches!(self.byte(0), b'e' | b'E') && self.byte(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.skip_while(digit);
        }
    }

    fn skip_operator(&mut self) {
        let start = self.at;
        while is_operator(self.byte(0)) && !matches!((self.byte(0), self.byte(1)), (b'-', b'-') | (b'/', b'*')) {
            self.at += 1;
        }
        // An operator may end in a sign only if it holds one of these characters: `=-1` is `=` and `-1`.
        let odd = |byte: &u8| b"~!@#%^&|`?".contains(byte);
        while self.at > start + 1
            && matches!(self.sql.as_bytes()[self.at - 1], b'+' | b'-')
            && !self.sql.as_bytes()[start..self.at].iter().any(odd)
        {
            self.at -= 1;
        }
    }

    fn skip_token(&mut self) -> Kind {
        match (self.byte(0), self.byte(1), self.byte(2)) {
            (b'\'', ..) => self.skip_quoted(b'\'', false, Kind::Text),
            (b'"', ..) => self.skip_quoted(b'"', false, Kind::Quoted),
            (prefix @ (b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N'), b'\'', _) => {
                self.at += 1;
                self.skip_quoted(b'\'', prefix | 0x20 == b'e', Kind::Text)
            }
            (b'u' | b'U', b'&', quote @ (b'\'' | b'"')) => {
                self.at += 2;
                self.skip_quoted(quote, false, if quote == b'"' { Kind::Quoted } else { Kind::Text })
            }
            (b'$', ..) => self.skip_dollar(),
            (byte, next, _) if byte.is_ascii_digit() || (byte == b'.' && next.is_ascii_digit()) => {
                self.skip_number();
                Kind::Number
            }
            (byte, ..) if is_name(byte) => {
                self.skip_while(is_name);
                Kind::Word
            }
            (b':', b':' | b'=', _) => {
                self.at += 2;
                Kind::Op
            }
            (byte, ..) if is_operator(byte) => {
                self.skip_operator();
                Kind::Op
            }
            _ => {
                self.at += 1;
                Kind::Mark
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let from = self.at;
        let Some(apart) = self.skip_blank() else {
            return Some(Token {
                kind: Kind::Broken,
                start: from,
                end: self.sql.len(),
                apart: false,
            });
        };
        if self.at >= self.sql.len() {
            return None;
        }
        let start = self.at;
        let kind = self.skip_token();
        // An escape at the very end of the text could step over it.
        self.at = self.at.min(self.sql.len());
        Some(Token {
            kind,
            start,
            end: self.at,
            apart,
        })
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn is_operator(byte: u8) -> bool {
    b"+-*/<>=~!@#%^&|`?".contains(&byte)
}

/// Finds the ends of statements: every `;` that is neither in parentheses nor in a `BEGIN ATOMIC` body.
#[derive(Default)]
pub(super) struct Cut {
    depth: u32,
    tokens: u32,
    create: bool,
    begin: bool,
    atomic: u32,
    /// Statements seen so far, without empty ones.
    pub(super) statements: u32,
}

impl Cut {
    /// Takes the next token; whether it ends a statement.
    pub(super) fn ends(&mut self, sql: &str, token: &Token) -> bool {
        if self.depth == 0 && self.atomic == 0 && token.mark(sql, b';') {
            *self = Self {
                statements: self.statements,
                ..Self::default()
            };
            return true;
        }
        self.tokens += 1;
        if self.tokens == 1 {
            self.statements += 1;
            self.create = token.is(sql, "create");
        }
        if token.mark(sql, b'(') {
            self.depth += 1;
        } else if token.mark(sql, b')') {
            self.depth = self.depth.saturating_sub(1);
        } else if self.create && token.kind == Kind::Word {
            self.atomic += u32::from(self.begin && token.is(sql, "atomic"));
            self.atomic += u32::from(self.atomic > 0 && token.is(sql, "case"));
            self.atomic -= u32::from(self.atomic > 0 && token.is(sql, "end"));
            self.begin = token.is(sql, "begin");
        }
        false
    }
}
