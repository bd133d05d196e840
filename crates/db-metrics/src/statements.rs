//! What a statement adds to, worked out once for each fingerprint: its verb, and a series for each table.

use crate::{bounded::Bounded, tally::Series};
use db_core::{StatementFacts, StatementKind};
use parking_lot::RwLock;
use quick_cache::{UnitWeighter, sync::Cache};
use std::{collections::HashMap, sync::Arc};

/// Tables of one statement that are counted; more than that is a report, and counted by its first ones.
const TABLES: usize = 8;

/// The verbs that have a series of their own.
pub(crate) const OPERATIONS: [&str; 12] = [
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "copy",
    "call",
    "transaction",
    "session",
    "ddl",
    "notify",
    "other",
];

/// A verb by its place in [`OPERATIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Operation(pub(crate) u8);

impl Operation {
    pub(crate) const OTHER: Self = Self(OPERATIONS.len() as u8 - 1);
    pub(crate) const TRANSACTION: Self = Self(7);

    pub(crate) fn named(name: &str) -> Self {
        OPERATIONS
            .iter()
            .position(|operation| operation.eq_ignore_ascii_case(name))
            .map_or(Self::OTHER, |place| Self(place as u8))
    }

    /// The verb of a text: that of its summary, else that of its kind.
    pub(crate) fn of(facts: &StatementFacts) -> Self {
        let mut words = facts.summary().split(' ');
        let first = words.clone().next().unwrap_or_default();
        // `WITH … INSERT` begins with what it reads, and is known by what it changes.
        let mut change = || words.find(|word| matches!(*word, "INSERT" | "UPDATE" | "DELETE" | "MERGE"));
        let named = Self::named(match facts.kind() {
            StatementKind::Write => change().unwrap_or(first),
            _ => first,
        });
        if named != Self::OTHER {
            return named;
        }
        match facts.kind() {
            StatementKind::Read => Self::named("select"),
            StatementKind::TxControl => Self::named("transaction"),
            StatementKind::Session => Self::named("session"),
            StatementKind::Ddl => Self::named("ddl"),
            _ => Self::OTHER,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        OPERATIONS[self.0 as usize]
    }
}

/// What one statement adds to.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) operation: Operation,
    pub(crate) tables: Box<[TableSeries]>,
}

/// A table and what is done to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableSeries {
    pub(crate) table: u32,
    pub(crate) operation: Operation,
    pub(crate) series: Series,
}

/// What is known of the statements that were seen most, and the series of the tables.
pub(crate) struct Statements {
    known: Cache<u64, Arc<Known>, UnitWeighter, foldhash::fast::RandomState>,
    tables: Bounded,
    /// By table and verb; at most as many as there are pairs of the bounded ones.
    series: RwLock<HashMap<(u32, Operation), Series>>,
}

impl Statements {
    pub(crate) fn new(max_statements: usize, max_tables: usize) -> Self {
        Self {
            known: Cache::with(
                max_statements,
                max_statements as u64,
                UnitWeighter,
                foldhash::fast::RandomState::default(),
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            tables: Bounded::new(max_tables),
            series: RwLock::default(),
        }
    }

    /// What the statement adds to; `fresh` numbers a new series.
    pub(crate) fn known(&self, facts: &StatementFacts, fresh: impl Fn() -> Series) -> Arc<Known> {
        let key = facts.fingerprint().get();
        self.known.get(&key).unwrap_or_else(|| self.learn(key, facts, fresh))
    }

    #[cold]
    fn learn(&self, key: u64, facts: &StatementFacts, fresh: impl Fn() -> Series) -> Arc<Known> {
        let operation = Operation::of(facts);
        let select = Operation::named("select");
        let reads = facts
            .reads()
            .iter()
            .filter(|table| !facts.writes().contains(table))
            .map(|table| (table, if facts.writes().is_empty() { operation } else { select }));
        let writes = facts.writes().iter().map(|table| (table, operation));
        let tables = writes.chain(reads).take(TABLES).map(|(table, operation)| {
            let table = self.tables.number(&table.to_string());
            TableSeries {
                table,
                operation,
                series: self.series_of(table, operation, &fresh),
            }
        });
        let known = Arc::new(Known {
            operation,
            tables: tables.collect(),
        });
        self.known.insert(key, Arc::clone(&known));
        known
    }

    fn series_of(&self, table: u32, operation: Operation, fresh: impl Fn() -> Series) -> Series {
        *self.series.write().entry((table, operation)).or_insert_with(fresh)
    }

    /// The names of the tables by number.
    pub(crate) fn tables(&self) -> Vec<String> {
        self.tables.list()
    }

    /// Every series of a table.
    pub(crate) fn table_series(&self) -> Vec<(u32, Operation, Series)> {
        let series = self.series.read();
        series
            .iter()
            .map(|((table, op), series)| (*table, *op, *series))
            .collect()
    }

    pub(crate) fn folded(&self) -> u64 {
        self.tables.folded()
    }

    /// How many statements are remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// Statements that one thread has at hand: beyond what it asks for in turn, the common list is asked.
const AT_HAND: usize = 256;

/// A statement by its fingerprint.
type Kept = (u64, Arc<Known>);

/// What one thread's page knows of the statements that it saw last, found without a lock or a counter of others.
pub(crate) struct AtHand(Box<[Option<Kept>]>);

impl AtHand {
    pub(crate) fn new() -> Self {
        Self(vec![None; AT_HAND].into())
    }

    pub(crate) fn find(&self, facts: &StatementFacts) -> Option<&Arc<Known>> {
        let key = facts.fingerprint().get();
        let (at_hand, known) = self.0[key as usize % AT_HAND].as_ref()?;
        (*at_hand == key).then_some(known)
    }

    /// Hands out the one that had its place, so that it can be dropped elsewhere.
    pub(crate) fn keep(&mut self, facts: &StatementFacts, known: Arc<Known>) -> Option<Kept> {
        let key = facts.fingerprint().get();
        self.0[key as usize % AT_HAND].replace((key, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(sql: &str) -> (String, Vec<(String, &'static str)>) {
        let statements = Statements::new(10, 10);
        let known = statements.known(&StatementFacts::of(sql), || Series(0));
        let names = statements.tables();
        let tables = known.tables.iter();
        let mut tables: Vec<_> = tables
            .map(|t| (names[t.table as usize].clone(), t.operation.name()))
            .collect();
        tables.sort_unstable();
        (known.operation.name().to_owned(), tables)
    }

    #[test]
    fn tables_are_those_of_the_statement_and_not_its_ctes_and_aliases() {
        let sql = r#"WITH recent AS (SELECT * FROM shop.orders AS o) INSERT INTO "Archive" SELECT r.* FROM recent AS r JOIN items i ON true"#;
        let (operation, tables) = tables(sql);
        assert_eq!(operation, "insert");
        let named = |name: &str, verb| (name.to_owned(), verb);
        assert_eq!(
            tables,
            [
                named("Archive", "insert"),
                named("items", "select"),
                named("shop.orders", "select")
            ]
        );
    }

    #[test]
    fn places_of_verbs() {
        assert_eq!(Operation::TRANSACTION.name(), "transaction");
        assert_eq!(Operation::OTHER.name(), "other");
    }

    #[test]
    fn every_kind_of_text_has_a_verb() {
        for (sql, verb) in [
            ("select 1", "select"),
            ("DELETE FROM ONLY t WHERE id = $1", "delete"),
            ("UPDATE t SET a = 1", "update"),
            ("BEGIN", "transaction"),
            ("SET LOCAL work_mem = '1MB'", "session"),
            ("CREATE TABLE t (a int)", "ddl"),
            ("COPY t FROM STDIN", "copy"),
            ("CALL p()", "call"),
            ("VALUES (1)", "select"),
            ("nonsense", "other"),
        ] {
            assert_eq!(tables(sql).0, verb, "{sql}");
        }
    }
}
