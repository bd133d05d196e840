//! What the server knows about tables, views, functions and triggers, kept in memory so that neither a read nor the
//! end of a write has to ask: which tables an answer depends on, and which ones a write reaches.

mod effect;
mod load;
mod resolve;

pub(crate) use effect::Effect;
pub(crate) use load::STAMP;

use crate::versions::Place;
use db_core::{StatementFacts, TableName};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// Where db-core cuts the normalized text: one of this length may go on.
const NORMALIZED: usize = 2000;

/// The schema of one database as one role sees it.
#[derive(Default)]
pub(crate) struct Catalogue {
    relations: HashMap<u32, Relation>,
    by_name: HashMap<Box<str>, Vec<u32>>,
    functions: HashMap<Box<str>, Vec<Function>>,
    /// Those of them that are not immutable and share their name with a built-in: a text that calls the built-in may
    /// mean them, by the types of its arguments.
    shadows: BTreeSet<Box<str>>,
    /// Schemas in the order in which an unqualified name is looked up.
    search_path: Vec<Box<str>>,
    stamp: Box<str>,
    /// What decides an answer beside the question: the schema, who asks, and how values are written.
    scope: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A table, partitioned or not, or a materialized view.
    Table,
    View,
    /// Rows that change without anybody here writing them: foreign tables, sequences.
    Elsewhere,
}

#[derive(Debug)]
struct Relation {
    schema: Box<str>,
    kind: Kind,
    /// A view's query.
    definition: Option<Box<str>>,
    /// The conditions of row-level security.
    policies: Vec<Box<str>>,
    /// A write may run code: triggers, rules, defaults that call volatile functions.
    runs_code: bool,
    /// A function of the row that is not immutable can be called as if it were a column.
    computed: bool,
    watched: bool,
    parents: Vec<u32>,
    children: Vec<u32>,
    /// Tables whose rows follow when rows here are deleted or change their key.
    cascades: Vec<u32>,
    /// The other way round.
    follows: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

#[derive(Debug)]
struct Function {
    oid: u32,
    schema: Box<str>,
    volatility: Volatility,
    /// Its SQL, when that is all it does.
    body: Option<Box<str>>,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Uncacheable {
    /// The cache is off.
    Off,
    /// The statement is not a plain read: it writes, locks, or was not understood.
    NotARead,
    /// It calls a volatile function.
    Volatile,
    /// The answer changes with the clock.
    Clock,
    /// The answer depends on the session, or on the server's own state.
    Session,
    /// What it reads can't be found out (a function that is not SQL, a foreign table, an unknown name); a tag makes it
    /// cacheable all the same.
    Opaque,
    /// The schema is not known yet, or no longer.
    Unready,
    /// The statement's mapper holds state of its own.
    Stateful,
}

impl Uncacheable {
    /// Every reason, in the order of [`Uncacheable::index`].
    pub const ALL: [Self; 8] = [
        Self::Off,
        Self::NotARead,
        Self::Volatile,
        Self::Clock,
        Self::Session,
        Self::Opaque,
        Self::Unready,
        Self::Stateful,
    ];

    /// A small number for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotARead => "not_a_read",
            Self::Volatile => "volatile",
            Self::Clock => "clock",
            Self::Session => "session",
            Self::Opaque => "opaque",
            Self::Unready => "unready",
            Self::Stateful => "stateful",
        }
    }
}

impl Catalogue {
    /// A text that changes whenever the schema does.
    pub(crate) fn stamp(&self) -> &str {
        &self.stamp
    }

    /// What tells this schema, role and session from others, the same in every process.
    pub(crate) fn scope(&self) -> &[u8] {
        &self.scope
    }

    /// The places of all tables whose writes may reach one of these; sorted.
    pub(crate) fn sources(&self, tables: &[u32]) -> Vec<Place> {
        let mut reached = BTreeSet::new();
        let mut open = tables.to_vec();
        while let Some(oid) = open.pop() {
            if let Some(relation) = self.relations.get(&oid).filter(|_| reached.insert(oid)) {
                open.extend(
                    relation
                        .parents
                        .iter()
                        .chain(&relation.children)
                        .chain(&relation.follows),
                );
            }
        }
        let places: BTreeSet<Place> = reached.into_iter().map(Place::table).collect();
        places.into_iter().collect()
    }

    /// Whether another process's write of this table is told to whoever listens.
    pub(crate) fn is_watched(&self, oid: u32) -> bool {
        self.relations.get(&oid).is_some_and(|relation| relation.watched)
    }

    /// The tables that tell of their writes, by name; sorted.
    pub(crate) fn watched(&self) -> Vec<String> {
        let names = self.by_name.iter().flat_map(|(name, oids)| {
            let watched = oids
                .iter()
                .filter_map(|oid| self.relations.get(oid).filter(|r| r.watched));
            watched.map(move |relation| format!("{}.{name}", relation.schema))
        });
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The relation that a name means, as PostgreSQL would look it up.
    fn find(&self, name: &TableName) -> Option<u32> {
        let schema_of = |oid: &u32| self.relations.get(oid).map(|relation| &relation.schema);
        let oids = self.by_name.get(&name.name)?;
        let in_schema = |schema: &str| {
            oids.iter()
                .find(|oid| schema_of(oid).is_some_and(|s| **s == *schema))
                .copied()
        };
        match &name.schema {
            Some(schema) => in_schema(schema),
            None => self.search_path.iter().find_map(|schema| in_schema(schema)),
        }
    }

    /// The functions that a text may call and that are not known built-ins.
    fn called(&self, facts: &StatementFacts) -> Vec<TableName> {
        let text = facts.normalized();
        let meant = |name: &str| text.len() >= NORMALIZED || text.contains(name);
        let shadows = self.shadows.iter().filter(|name| meant(name)).map(|name| TableName {
            schema: None,
            name: name.clone(),
        });
        facts.unknown_functions().iter().cloned().chain(shadows).collect()
    }

    /// Whether a plain read may call something else than it seems to.
    pub(crate) fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// All functions that a call by this name may mean: the types of its arguments are not known here.
    fn functions<'a>(&'a self, name: &'a TableName) -> impl Iterator<Item = &'a Function> {
        let all = self.functions.get(&name.name).into_iter().flatten();
        all.filter(|function| name.schema.as_ref().is_none_or(|schema| *schema == function.schema))
    }
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue")
            .field("relations", &self.relations.len())
            .field("functions", &self.functions.len())
            .finish_non_exhaustive()
    }
}
