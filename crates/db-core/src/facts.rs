//! What is known about an SQL text without asking the server: what it reads and writes, and what it leaves behind.
//!
//! Facts are worked out once per text and then found in a [`FactsCache`]. They err to one side: what is not
//! understood is [`StatementKind::Unknown`], touches every table and is not self-contained.

mod builtins;
mod cache;
mod classify;
mod define;
mod depth;
mod ease;
mod found;
mod functions;
mod lex;
mod normal;
mod tokens;
mod usage;
mod walk;
mod walk_call;
mod walk_change;
mod walk_expr;

pub use cache::FactsCache;

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
    time::Duration,
};

/// What a text does, by its most consequential statement:
/// `Unknown`, then `Ddl`, `Write`, `TxControl`, `Session`, `Read`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StatementKind {
    /// Only reads. `SELECT … FOR UPDATE` and `LOCK TABLE` read and are also [`StatementFacts::locking`].
    #[default]
    Read,
    /// Changes or shows the session: `SET`, `RESET`, `DISCARD`, `LISTEN`, `PREPARE`, cursors, temporary tables.
    Session,
    /// Begins, ends or divides a transaction.
    TxControl,
    /// Changes rows, or has another effect that lasts (`NOTIFY`).
    Write,
    /// Changes the schema, roles or the physical state of tables.
    Ddl,
    /// Not understood, or free to do anything (`DO`, `CALL`, `EXECUTE`).
    Unknown,
}

/// A table, or a function, as PostgreSQL would look it up: unquoted names are folded to lower case, quoted ones are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema, when the text names one.
    pub schema: Option<Box<str>>,
    /// The table's own name.
    pub name: Box<str>,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Identifies a statement without its literals. Equal in every process and run of one version of this crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The number, for keys and samplers.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// As it is written: 16 hexadecimal digits.
impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// What is known about one SQL text.
#[derive(Clone)]
pub struct StatementFacts {
    kind: StatementKind,
    reads: Box<[TableName]>,
    writes: Box<[TableName]>,
    touches_everything: bool,
    locking: bool,
    volatile: bool,
    opaque_function: bool,
    functions: Box<[TableName]>,
    depends_on_time: bool,
    depends_on_session: bool,
    leaves_session_state: bool,
    leaves_transaction_open: bool,
    controls_transaction: bool,
    statements: u32,
    fingerprint: Fingerprint,
    normalized: Box<str>,
    summary: Box<str>,
    text: u64,
    usage: usage::Usage,
}

impl StatementFacts {
    /// Works the facts out. [`FactsCache::facts`] does it once per text.
    pub fn of(sql: &str) -> Self {
        let (fingerprint, normalized) = normal::normalize(sql);
        let (mut found, statements) = classify::classify(sql);
        found.reads.sort_unstable();
        found.writes.sort_unstable();
        Self {
            kind: found.kind,
            reads: found.reads.into(),
            writes: found.writes.into(),
            touches_everything: found.everything,
            locking: found.locking,
            volatile: found.volatile,
            opaque_function: found.opaque || !found.functions.is_empty(),
            functions: if found.opaque {
                Box::default()
            } else {
                found.functions.into()
            },
            depends_on_time: found.time,
            depends_on_session: found.session,
            leaves_session_state: found.leaves_state,
            leaves_transaction_open: found.leaves_open,
            controls_transaction: found.controls,
            statements,
            fingerprint,
            normalized: normalized.into(),
            summary: found.summary.into_text().into(),
            text: {
                let mut hasher = DefaultHasher::new();
                sql.hash(&mut hasher);
                hasher.finish()
            },
            usage: usage::Usage::default(),
        }
    }

    /// What the text does, by its most consequential statement.
    pub fn kind(&self) -> StatementKind {
        self.kind
    }

    /// The tables that are read, sorted, without CTE names and aliases.
    pub fn reads(&self) -> &[TableName] {
        &self.reads
    }

    /// The tables whose rows or definition are changed, sorted.
    pub fn writes(&self) -> &[TableName] {
        &self.writes
    }

    /// Whether any table may be read or written beyond those that are listed.
    pub fn touches_everything(&self) -> bool {
        self.touches_everything
    }

    /// Whether it takes row or table locks on purpose: `FOR UPDATE` and its kin, `LOCK TABLE`.
    pub fn locking(&self) -> bool {
        self.locking
    }

    /// Whether it calls a function that is known to be volatile or to have side effects.
    pub fn volatile(&self) -> bool {
        self.volatile
    }

    /// Whether it calls a function that is not a known built-in, so that anything may happen in it.
    pub fn opaque_function(&self) -> bool {
        self.opaque_function
    }

    /// The functions that make the text [opaque](Self::opaque_function), as the text names them, when they alone do;
    /// empty when something else does as well: an operator, a call that was not understood, too many functions.
    pub fn unknown_functions(&self) -> &[TableName] {
        &self.functions
    }

    /// Whether the answer changes with the clock: `now()`, `current_date`, `'today'`.
    pub fn depends_on_time(&self) -> bool {
        self.depends_on_time
    }

    /// Whether the answer depends on the user, the session's settings, the node or the server's state.
    pub fn depends_on_session(&self) -> bool {
        self.depends_on_session
    }

    /// The number of statements in the text; empty ones do not count.
    pub fn statements(&self) -> u32 {
        self.statements
    }

    /// Whether a setting, lock, cursor, prepared statement or temporary table may outlive the text in the session.
    pub fn leaves_session_state(&self) -> bool {
        self.leaves_session_state
    }

    /// Whether the session may be inside another transaction after the text has run to its end.
    pub fn leaves_transaction_open(&self) -> bool {
        self.leaves_transaction_open
    }

    /// Whether it begins, ends or divides a transaction.
    pub fn controls_transaction(&self) -> bool {
        self.controls_transaction
    }

    /// Whether the connection is as it was before, whether the text ends well or with an error.
    ///
    /// False for every text that controls transactions: when `INSERT` fails in `BEGIN; INSERT …; COMMIT`, the
    /// transaction stays open although the text ends it.
    pub fn is_self_contained(&self) -> bool {
        !self.leaves_session_state && !self.leaves_transaction_open && !self.controls_transaction
    }

    /// Whether it only reads, takes no locks and calls nothing but stable built-ins: safe to repeat, and to run on a
    /// replica. Whether the answer may be kept is for [`depends_on_time`](Self::depends_on_time) and
    /// [`depends_on_session`](Self::depends_on_session) to say.
    pub fn is_pure_read(&self) -> bool {
        self.kind == StatementKind::Read
            && !self.locking
            && !self.volatile
            && !self.opaque_function
            && !self.touches_everything
            && self.writes.is_empty()
    }

    /// The statement's identity without its literals.
    ///
    /// Texts share it when they differ only in literals, parameter numbers, white space, comments, the letter case
    /// of keywords and unquoted names, and the length of `IN` lists and `VALUES` rows.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The text without literals (`?`) and parameter numbers (`$`), cut at 2 KiB.
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    /// A hash of the very text, literals and all: each one is prepared by itself. For this process only.
    pub fn text_id(&self) -> u64 {
        self.text
    }

    /// How often this process has run the text, with whichever pool, for as long as its facts are remembered.
    pub fn uses(&self) -> u64 {
        self.usage.uses()
    }

    /// Counts one run. A relaxed addition.
    pub fn count_use(&self) {
        self.usage.used();
    }

    /// Counts how long a caller waited for the text, all in all. A sample: mostly a load.
    pub fn count_time(&self, took: Duration) {
        self.usage.took(took);
    }

    /// How long callers waited on average, from a sample; `None` before the first.
    pub fn mean_time(&self) -> Option<Duration> {
        self.usage.mean()
    }

    /// The OpenTelemetry `db.query.summary`: operations and their targets, at most 255 bytes.
    pub fn summary(&self) -> &str {
        &self.summary
    }
}

impl fmt::Debug for StatementFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementFacts")
            .field("kind", &self.kind)
            .field("fingerprint", &self.fingerprint)
            .field("normalized", &self.normalized)
            .finish_non_exhaustive()
    }
}
