//! The text without its literals, and the fingerprint made of it.

use super::{
    Fingerprint,
    lex::{Kind, Lexer, Token},
};

/// Bytes of normalised text that are kept.
pub(super) const KEPT: usize = 2048;
/// Stands for a literal while the text is built: no other token can look like it.
const LITERAL: char = '\u{1}';
/// Lists inside lists that are still shortened, and distinct items that each remembers.
const LISTS: usize = 32;

/// Words after which a sign belongs to the number that follows it.
const BEFORE_VALUE: &[&str] = &[
    "select",
    "where",
    "and",
    "or",
    "not",
    "then",
    "else",
    "when",
    "case",
    "by",
    "limit",
    "offset",
    "between",
    "like",
    "ilike",
    "returning",
    "on",
    "having",
    "distinct",
    "all",
    "in",
    "set",
    "to",
    "from",
    "for",
    "first",
    "next",
    "as",
];
/// Words before `(` that are no function names.
const SPACED: &[&str] = &[
    "in",
    "values",
    "and",
    "or",
    "not",
    "as",
    "on",
    "using",
    "select",
    "from",
    "where",
    "exists",
    "any",
    "all",
    "some",
    "over",
    "filter",
    "group",
    "when",
    "then",
    "else",
    "by",
    "join",
    "union",
    "except",
    "intersect",
    "lateral",
    "table",
    "returning",
    "materialized",
    "conflict",
    "into",
    "set",
    "case",
    "is",
    "limit",
    "offset",
    "array",
    "with",
];

struct List {
    /// The depth of parentheses at which the list's commas stand.
    depth: u32,
    rows: bool,
    /// Where the item's separator and the item itself begin in the output.
    separator: usize,
    item: usize,
    seen: Vec<u64>,
}

struct Normalizer<'a> {
    sql: &'a str,
    out: String,
    depth: u32,
    lists: Vec<List>,
    /// The token before, and the one before that.
    last: Option<Token>,
    before: Option<Token>,
}

/// The fingerprint, and the literal-free text cut to [`KEPT`] bytes.
pub(super) fn normalize(sql: &str) -> (Fingerprint, String) {
    let mut all = Normalizer {
        sql,
        out: String::with_capacity(sql.len().min(4096)),
        depth: 0,
        lists: Vec::new(),
        last: None,
        before: None,
    };
    let mut tokens = Lexer::new(sql).peekable();
    let mut hash = Fnv::default();
    while let Some(token) = tokens.next() {
        let number = tokens.peek().is_some_and(|next| next.kind == Kind::Number);
        if all.skips(&token, number) {
            continue;
        }
        if token.kind == Kind::Broken {
            // Nothing can be said about the rest, so its every byte counts; the text shows none of it.
            hash.write(token.text(sql).as_bytes());
        }
        all.lists_before(&token);
        all.write(&token);
        all.lists_after(&token);
        (all.before, all.last) = (all.last, Some(token));
    }
    while all.end_item().is_some() {}
    let mut text = all.out;
    text.truncate(text.trim_end_matches([';', ' ']).len());
    hash.write(text.as_bytes());
    text.truncate(text.floor_char_boundary(KEPT));
    (Fingerprint(hash.finish()), text.replace(LITERAL, "?"))
}

impl Normalizer<'_> {
    /// Tokens that leave no trace: empty statements, a number's sign, the continuation of a string.
    fn skips(&self, token: &Token, number_follows: bool) -> bool {
        let Some(last) = &self.last else {
            return token.mark(self.sql, b';');
        };
        match token.kind {
            Kind::Mark if token.mark(self.sql, b';') => last.mark(self.sql, b';'),
            Kind::Text => last.kind == Kind::Text && token.apart,
            Kind::Op => number_follows && matches!(token.text(self.sql), "-" | "+") && self.value_expected(last),
            _ => false,
        }
    }

    fn value_expected(&self, last: &Token) -> bool {
        match last.kind {
            Kind::Op => true,
            Kind::Mark => !last.mark(self.sql, b')') && !last.mark(self.sql, b']'),
            Kind::Word => last.is_any(self.sql, BEFORE_VALUE),
            _ => false,
        }
    }

    /// Whether a word stands for a value, so that it counts as a literal.
    fn is_constant(&self, token: &Token) -> bool {
        let after = |word| self.last.is_some_and(|last| last.is(self.sql, word));
        let is_not = after("not") && self.before.is_some_and(|before| before.is(self.sql, "is"));
        let name = self.last.is_some_and(|last| last.mark(self.sql, b'.')) || after("as");
        if name || after("is") || is_not {
            return false;
        }
        token.is(self.sql, "null") && !after("not") || token.is_any(self.sql, &["true", "false"])
    }

    /// Closes the lists that this token ends, and finds out whether a list begins with it.
    fn lists_before(&mut self, token: &Token) {
        let sql = self.sql;
        let open = token.mark(sql, b'(');
        while let Some(list) = self.lists.last() {
            let comma = token.mark(sql, b',') && self.depth == list.depth;
            let first = self.out.len() == list.item;
            let subquery = first && !list.rows && token.is_any(sql, &["select", "with", "values", "table"]);
            let no_row = list.rows && self.depth == list.depth && !comma && !(first && open);
            let ends = token.mark(sql, b')') && self.depth == list.depth && !list.rows;
            if subquery {
                self.lists.pop();
            } else if comma {
                let (depth, rows) = (list.depth, list.rows);
                let seen = self.end_item().unwrap_or_default();
                self.begin_item(depth, rows, seen);
                return;
            } else if no_row || ends {
                self.end_item();
            } else {
                return;
            }
        }
    }

    fn lists_after(&mut self, token: &Token) {
        let sql = self.sql;
        if token.mark(sql, b'(') {
            self.depth += 1;
            if self.last.is_some_and(|last| last.is(sql, "in")) {
                self.begin_item(self.depth, false, Vec::new());
            }
        } else if token.mark(sql, b')') {
            self.depth = self.depth.saturating_sub(1);
        } else if token.is(sql, "values") {
            self.begin_item(self.depth, true, Vec::new());
        } else if let Some(list) = self.lists.last_mut()
            && token.mark(sql, b',')
            && self.depth == list.depth
        {
            list.item = self.out.len();
        }
    }

    fn begin_item(&mut self, depth: u32, rows: bool, seen: Vec<u64>) {
        if self.lists.len() < LISTS {
            let at = self.out.len();
            self.lists.push(List {
                depth,
                rows,
                separator: at,
                item: at,
                seen,
            });
        }
    }

    /// Ends the innermost list's item and drops it from the output when the list had its like before.
    fn end_item(&mut self) -> Option<Vec<u64>> {
        let mut list = self.lists.pop()?;
        let mut hash = Fnv::default();
        hash.write(self.out.get(list.item..).unwrap_or_default().trim_start().as_bytes());
        let hash = hash.finish();
        if list.seen.contains(&hash) {
            self.out.truncate(list.separator);
        } else if list.seen.len() < LISTS {
            list.seen.push(hash);
        }
        Some(list.seen)
    }

    fn write(&mut self, token: &Token) {
        let text = token.text(self.sql);
        let tight = |byte: u8| b"([.".contains(&byte);
        let call = token.mark(self.sql, b'(')
            && !self.out.ends_with(LITERAL)
            && self
                .last
                .is_some_and(|last| matches!(last.kind, Kind::Word | Kind::Quoted) && !last.is_any(self.sql, SPACED));
        let joined = match token.kind {
            Kind::Mark => text.len() == 1 && b",;)].[".contains(&text.as_bytes()[0]) || call,
            _ => text == "::",
        };
        let ended = self.out.as_bytes().last().is_none_or(|byte| tight(*byte)) || self.out.ends_with("::");
        if !joined && !ended {
            self.out.push(' ');
        }
        match token.kind {
            Kind::Text | Kind::Number | Kind::Broken => self.out.push(LITERAL),
            Kind::Param => self.out.push('$'),
            Kind::Word if self.is_constant(token) => self.out.push(LITERAL),
            Kind::Word => self.out.extend(text.chars().map(|letter| letter.to_ascii_lowercase())),
            Kind::Quoted if !text.starts_with('"') => {
                self.out.push_str("u&");
                self.out.push_str(&text[2..]);
            }
            // A stray control character must not pass for a literal.
            Kind::Quoted | Kind::Op | Kind::Mark => {
                self.out
                    .extend(text.chars().map(|sign| if sign == LITERAL { '\u{fffd}' } else { sign }));
            }
        }
    }
}

/// FNV-1a with a final mix: the same number on every machine and in every run, which foldhash does not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}
