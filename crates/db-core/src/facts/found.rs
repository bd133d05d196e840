//! What has been found out so far about one text.

use super::{StatementKind, TableName};

/// Tables of each sort that are kept; beyond them a text touches everything.
const TABLES: usize = 64;
/// PostgreSQL cuts longer names.
const NAME: usize = 63;
/// The longest summary that OpenTelemetry allows.
const SUMMARY: usize = 255;

#[derive(Default)]
pub(super) struct Found {
    pub(super) kind: StatementKind,
    pub(super) reads: Vec<TableName>,
    pub(super) writes: Vec<TableName>,
    pub(super) everything: bool,
    pub(super) locking: bool,
    pub(super) volatile: bool,
    pub(super) opaque: bool,
    /// What is called and is no known built-in.
    pub(super) functions: Vec<TableName>,
    pub(super) time: bool,
    pub(super) session: bool,
    pub(super) leaves_state: bool,
    pub(super) leaves_open: bool,
    pub(super) controls: bool,
    pub(super) summary: Summary,
}

impl Found {
    /// A statement of this kind is part of the text.
    pub(super) fn kind(&mut self, kind: StatementKind) {
        self.kind = self.kind.max(kind);
    }

    /// Something was not understood: everything is possible.
    pub(super) fn unknown(&mut self) {
        self.kind(StatementKind::Unknown);
        self.everything = true;
        self.locking = true;
        self.volatile = true;
        self.opaque = true;
        self.time = true;
        self.session = true;
        self.leaves_state = true;
        self.leaves_open = true;
    }

    pub(super) fn read(&mut self, table: TableName) {
        self.summary.target(&table);
        // Catalogs and statistics views change without any statement that names them.
        let catalog = match &table.schema {
            Some(schema) => matches!(&**schema, "pg_catalog" | "information_schema"),
            None => table.name.starts_with("pg_"),
        };
        self.session |= catalog;
        self.everything |= !keep(&mut self.reads, table);
    }

    pub(super) fn write(&mut self, table: TableName) {
        self.summary.target(&table);
        self.everything |= !keep(&mut self.writes, table);
    }

    /// A function that is not a known built-in is called.
    pub(super) fn calls(&mut self, function: TableName) {
        self.opaque |= !keep(&mut self.functions, function);
    }

    /// Takes over what another text or part does when it runs.
    pub(super) fn runs(&mut self, part: Self) {
        self.kind(part.kind);
        for table in part.reads {
            self.everything |= !keep(&mut self.reads, table);
        }
        for table in part.writes {
            self.everything |= !keep(&mut self.writes, table);
        }
        self.everything |= part.everything;
        self.locking |= part.locking;
        self.volatile |= part.volatile;
        self.opaque |= part.opaque;
        for function in part.functions {
            self.calls(function);
        }
        self.time |= part.time;
        self.session |= part.session;
        self.leaves_state |= part.leaves_state;
        self.leaves_open |= part.leaves_open;
        self.controls |= part.controls;
        self.summary.append(&part.summary);
    }
}

fn keep(tables: &mut Vec<TableName>, table: TableName) -> bool {
    let room = tables.len() < TABLES;
    if tables.contains(&table) {
        return true;
    }
    if room {
        tables.push(table);
    }
    room
}

/// A name as PostgreSQL stores it: folded unless it was quoted, and cut to its longest form.
pub(super) fn fold(name: &str, quoted: bool) -> Box<str> {
    let cut = &name[..name.floor_char_boundary(NAME)];
    if quoted {
        cut.into()
    } else {
        cut.to_ascii_lowercase().into()
    }
}

/// Operations and their targets, in the order of the text.
#[derive(Default)]
pub(super) struct Summary {
    text: String,
    /// Where the current operation's name begins and its targets begin.
    op: usize,
    targets: usize,
    full: bool,
}

impl Summary {
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A statement begins.
    pub(super) fn op(&mut self, op: &str) {
        let at = self.text.len();
        if self.push(op) {
            self.op = if at == 0 { 0 } else { at + 1 };
            self.targets = self.text.len();
        }
    }

    /// A query inside a statement begins; inside a query of the same sort it goes without saying.
    pub(super) fn nested(&mut self, op: &str) {
        if self.text.get(self.op..self.targets) != Some(op) {
            self.op(op);
        }
    }

    /// The next operation is another statement's, even if it has the same name.
    pub(super) fn next_statement(&mut self) {
        self.op = self.text.len();
        self.targets = self.op;
    }

    fn target(&mut self, table: &TableName) {
        let name = table.to_string();
        let name = if name.contains(char::is_whitespace) {
            format!("\"{name}\"")
        } else {
            name
        };
        let known = self.text.get(self.targets..).unwrap_or_default();
        if !known.split(' ').any(|target| target == name) {
            self.push(&name);
        }
    }

    fn append(&mut self, other: &Self) {
        self.op(&other.text);
    }

    fn push(&mut self, word: &str) -> bool {
        let space = usize::from(!self.text.is_empty());
        // A later, shorter word must not appear as if nothing had been left out before it.
        self.full |= self.text.len() + space + word.len() > SUMMARY;
        if self.full || word.is_empty() {
            return false;
        }
        if space == 1 {
            self.text.push(' ');
        }
        self.text.push_str(word);
        true
    }
}
