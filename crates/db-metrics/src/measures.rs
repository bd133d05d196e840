//! Everything that is counted.

mod counting;

use crate::{
    bounded::Bounded,
    conditions::Conditions,
    happened::Happened,
    registry::Id,
    statements::{OPERATIONS, Operation, Statements},
    tally::{Book, Series, Tally},
};
use db_core::{Part, QueryClass};
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// SQLSTATEs and kinds of errors that have a series of their own; PostgreSQL has about 260, a service sees ten.
const ERROR_TYPES: usize = 48;
/// Classes that have a series of their own; the timeout layer knows 5 and allows 64 more.
const CLASSES: usize = 69;

const VERBS: u32 = OPERATIONS.len() as u32;
// The series that every call adds to have fixed places; those of tables, errors and custom classes come behind them.
const DONE: u32 = 0;
const CANCELLED: u32 = DONE + VERBS;
const CLASS: u32 = CANCELLED + VERBS;
const PART: u32 = CLASS + 5;
const SERVER: Series = Series(PART + Part::ALL.len() as u32);
const WAIT: Series = Series(SERVER.0 + 1);
const USE: Series = Series(WAIT.0 + 1);
const CREATE: Series = Series(USE.0 + 1);
const FREE: u32 = CREATE.0 + 1;

/// The kind of a call that failed, or 0 for all kinds beyond the bound.
type ErrorType = u32;

pub(crate) struct Measures {
    book: Book,
    next: AtomicU32,
    statements: Statements,
    errors: Bounded,
    error_series: RwLock<HashMap<(Operation, ErrorType), Series>>,
    classes: Bounded,
    class_series: RwLock<HashMap<u32, Series>>,
    table_errors: RwLock<HashMap<(u32, Operation), AtomicU64>>,
    tenants: Bounded,
    /// By tenant: calls that ended well, and others.
    tenant_calls: RwLock<HashMap<u32, [AtomicU64; 2]>>,
    slow: [AtomicU64; OPERATIONS.len()],
    /// Calls that took longer are counted as slow; nanoseconds.
    slow_threshold: AtomicU64,
    pub(crate) happened: Happened,
    pub(crate) conditions: Conditions,
}

/// What a series of times belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Calls by verb, and the kind of error: empty for success.
    Calls { operation: &'static str, ending: Ending },
    /// By one metric and its labels.
    Of(Id, Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    Cancelled,
    Failed(String),
}

impl Measures {
    pub(crate) fn new(max_statements: usize, max_tables: usize, max_tenants: usize) -> Self {
        Self {
            book: Book::new(FREE),
            next: AtomicU32::new(FREE),
            statements: Statements::new(max_statements, max_tables),
            errors: Bounded::new(ERROR_TYPES),
            error_series: RwLock::default(),
            classes: Bounded::new(CLASSES),
            class_series: RwLock::default(),
            table_errors: RwLock::default(),
            tenants: Bounded::new(max_tenants),
            tenant_calls: RwLock::default(),
            slow: Default::default(),
            slow_threshold: AtomicU64::new(u64::MAX),
            happened: Happened::new(),
            conditions: Conditions::new(),
        }
    }

    pub(crate) fn set_slow_threshold(&self, threshold: Option<Duration>) {
        let nanos = threshold.map_or(u64::MAX, |threshold| {
            u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX)
        });
        self.slow_threshold.store(nanos, Ordering::Relaxed);
    }

    fn fresh(&self) -> Series {
        Series(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn class(&self, class: QueryClass) -> Series {
        match class {
            QueryClass::Instant => Series(CLASS),
            QueryClass::Fast => Series(CLASS + 1),
            QueryClass::Normal => Series(CLASS + 2),
            QueryClass::Slow => Series(CLASS + 3),
            QueryClass::Batch => Series(CLASS + 4),
            _ => {
                let number = self.classes.number(class.name());
                if let Some(series) = self.class_series.read().get(&number) {
                    return *series;
                }
                *self.class_series.write().entry(number).or_insert_with(|| self.fresh())
            }
        }
    }

    #[cold]
    fn failed(&self, operation: Operation, error_type: &str) -> Series {
        let number = self.errors.number(error_type);
        let mut series = self.error_series.write();
        *series.entry((operation, number)).or_insert_with(|| self.fresh())
    }

    #[cold]
    fn failed_on(&self, table: u32, operation: Operation) {
        let key = (table, operation);
        if let Some(count) = self.table_errors.read().get(&key) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut errors = self.table_errors.write();
        errors.entry(key).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn of_tenant(&self, tenant: &str, done: bool) {
        let (number, place) = (self.tenants.number(tenant), usize::from(!done));
        if let Some(calls) = self.tenant_calls.read().get(&number) {
            calls[place].fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut all = self.tenant_calls.write();
        all.entry(number).or_default()[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of each tenant since the start, by how they ended.
    pub(crate) fn tenants(&self) -> Vec<([String; 2], u64)> {
        let names = self.tenants.list();
        let calls = self.tenant_calls.read();
        let rows = calls.iter().flat_map(|(number, calls)| {
            let name = &names[*number as usize];
            [("success", &calls[0]), ("error", &calls[1])]
                .map(|(status, count)| ([name.clone(), status.to_owned()], count.load(Ordering::Relaxed)))
        });
        rows.collect()
    }

    /// What was added since the last time, with its meaning.
    pub(crate) fn drain(&self) -> Vec<(Meaning, Tally)> {
        // Before the meanings are read: a series that gets its first entry after this has a meaning next time.
        let tallies = self.book.drain();
        let meanings = self.meanings().into_iter();
        meanings
            .map(|(place, meaning)| (meaning, tallies.get(place as usize).copied().unwrap_or_default()))
            .collect()
    }

    fn meanings(&self) -> BTreeMap<u32, Meaning> {
        let mut all = BTreeMap::new();
        for (place, operation) in OPERATIONS.iter().enumerate() {
            let calls = |ending| Meaning::Calls { operation, ending };
            all.insert(DONE + place as u32, calls(Ending::Done));
            all.insert(CANCELLED + place as u32, calls(Ending::Cancelled));
        }
        let of = |id, labels: &[&str]| Meaning::Of(id, labels.iter().map(|l| (*l).to_owned()).collect());
        let built_in = ["instant", "fast", "normal", "slow", "batch"];
        for (place, class) in built_in.iter().enumerate() {
            all.insert(CLASS + place as u32, of(Id::ClassDuration, &[class]));
        }
        for part in Part::ALL {
            all.insert(PART + part.index() as u32, of(Id::TimeSpent, &[part.name()]));
        }
        all.insert(SERVER.0, of(Id::TimeSpent, &["server"]));
        all.insert(WAIT.0, of(Id::ConnectionWait, &[]));
        all.insert(USE.0, of(Id::ConnectionUse, &[]));
        all.insert(CREATE.0, of(Id::ConnectionCreate, &[]));
        let classes = self.classes.list();
        for (number, series) in self.class_series.read().iter() {
            all.insert(series.0, of(Id::ClassDuration, &[&classes[*number as usize]]));
        }
        let error_series = self.error_series.read();
        let errors = self.errors.list();
        for ((operation, number), series) in error_series.iter() {
            let ending = Ending::Failed(errors[*number as usize].clone());
            let operation = operation.name();
            all.insert(series.0, Meaning::Calls { operation, ending });
        }
        drop(error_series);
        let series = self.statements.table_series();
        let tables = self.statements.tables();
        for (table, operation, series) in series {
            let labels = [tables[table as usize].as_str(), operation.name()];
            all.insert(series.0, of(Id::TableDuration, &labels));
        }
        all
    }

    /// Failures of each table and verb since the start.
    pub(crate) fn table_errors(&self) -> Vec<([String; 2], u64)> {
        let errors = self.table_errors.read();
        let tables = self.statements.tables();
        let row = |((table, operation), count): (&(u32, Operation), &AtomicU64)| {
            let labels = [tables[*table as usize].clone(), operation.name().to_owned()];
            (labels, count.load(Ordering::Relaxed))
        };
        errors.iter().map(row).collect()
    }

    /// Slow calls by verb since the start.
    pub(crate) fn slow(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.slow.iter().map(|count| count.load(Ordering::Relaxed));
        OPERATIONS.into_iter().zip(counts)
    }

    /// Names that found no room, by what they were.
    pub(crate) fn folded(&self) -> [(&'static str, u64); 4] {
        [
            ("tenant", self.tenants.folded()),
            ("table", self.statements.folded()),
            ("error_type", self.errors.folded()),
            ("class", self.classes.folded()),
        ]
    }

    /// How many statements are remembered.
    pub(crate) fn statements(&self) -> usize {
        self.statements.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use db_core::{Call, CallReport, Error, Observer, Outcome, Spent, StatementFacts};
    use std::sync::Arc;

    fn report(measures: &Measures, sql: &str, outcome: Outcome<'_>, class: QueryClass) {
        let facts = Arc::new(StatementFacts::of(sql));
        let call = Call::default().with_class(class);
        let mut report = CallReport::new(&call, outcome, Duration::from_millis(3), &Spent::NOTHING);
        report.facts = Some(&facts);
        measures.call(&report);
    }

    #[test]
    fn a_call_is_found_under_its_verb_its_class_its_tables_and_its_error() {
        let measures = Measures::new(10, 10, 10);
        let error = Error::Client(sqlx::Error::RowNotFound);
        report(
            &measures,
            "SELECT * FROM a JOIN b ON true",
            Outcome::Done,
            QueryClass::Custom("nightly"),
        );
        report(&measures, "SELECT * FROM a", Outcome::Failed(&error), QueryClass::Fast);
        report(&measures, "DELETE FROM a", Outcome::Abandoned, QueryClass::Fast);
        let drained = measures.drain();
        let count = |meaning: &Meaning| drained.iter().find(|(m, _)| m == meaning).map_or(0, |(_, t)| t.count());
        let calls = |operation, ending| count(&Meaning::Calls { operation, ending });
        assert_eq!(calls("select", Ending::Done), 1);
        assert_eq!(calls("select", Ending::Failed("row_not_found".into())), 1);
        assert_eq!(calls("delete", Ending::Cancelled), 1);
        let of = |id, labels: &[&str]| count(&Meaning::Of(id, labels.iter().map(|l| (*l).to_owned()).collect()));
        assert_eq!(of(Id::TableDuration, &["a", "select"]), 2);
        assert_eq!(of(Id::TableDuration, &["b", "select"]), 1);
        assert_eq!(of(Id::ClassDuration, &["nightly"]), 1);
        assert_eq!(of(Id::ClassDuration, &["fast"]), 2);
        assert_eq!(of(Id::TimeSpent, &["server"]), 3);
        assert_eq!(measures.table_errors(), [(["a".to_owned(), "select".to_owned()], 1)]);
        assert!(measures.drain().iter().all(|(_, tally)| tally.count() == 0));
    }

    #[test]
    fn what_is_slow_is_counted_by_its_verb() {
        let measures = Measures::new(10, 10, 10);
        report(&measures, "SELECT 1", Outcome::Done, QueryClass::Fast);
        measures.set_slow_threshold(Some(Duration::from_millis(2)));
        report(&measures, "SELECT 1", Outcome::Done, QueryClass::Fast);
        assert_eq!(measures.slow().find(|(verb, _)| *verb == "select"), Some(("select", 1)));
    }
}
