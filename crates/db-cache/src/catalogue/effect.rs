//! What a write reaches.

use super::{Catalogue, Kind, Volatility};
use db_core::{StatementFacts, StatementKind, TableName};
use std::collections::BTreeSet;

/// What a statement may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// No table.
    Nothing,
    /// The rows of these tables, by OID.
    Tables(BTreeSet<u32>),
    /// Anything; the rows of any table.
    Everything,
    /// Anything, the schema included.
    Schema,
}

impl Effect {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Schema, _) | (_, Self::Schema) => Self::Schema,
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Nothing, effect) | (effect, Self::Nothing) => effect,
            (Self::Tables(mut tables), Self::Tables(more)) => {
                tables.extend(more);
                Self::Tables(tables)
            }
        }
    }

    /// What the text alone says: all, or nothing, or `None` when the tables decide.
    pub(crate) fn by_text(facts: &StatementFacts) -> Option<Self> {
        match facts.kind() {
            StatementKind::Ddl | StatementKind::Unknown => Some(Self::Schema),
            // COMMIT PREPARED makes anything visible.
            StatementKind::TxControl => Some(Self::Everything),
            _ if facts.touches_everything() => Some(Self::Everything),
            _ if facts.writes().is_empty() && !facts.opaque_function() => Some(Self::Nothing),
            _ => None,
        }
    }
}

impl Catalogue {
    /// What running this statement may change.
    pub(crate) fn effect(&self, facts: &StatementFacts) -> Effect {
        match Effect::by_text(facts) {
            Some(Effect::Nothing) if self.has_shadows() => {}
            Some(effect) => return effect,
            None => {}
        }
        if facts.opaque_function() && facts.unknown_functions().is_empty() {
            return Effect::Everything;
        }
        let harmless = |name: &TableName| {
            let mut known = false;
            let quiet = self.functions(name).all(|function| {
                known = true;
                function.volatility != Volatility::Volatile
            });
            known && quiet
        };
        if !self.called(facts).iter().all(harmless) {
            return Effect::Everything;
        }
        let mut effect = Effect::Nothing;
        for table in facts.writes() {
            effect = effect.and(self.find(table).map_or(Effect::Everything, |oid| self.written(oid)));
        }
        effect
    }

    /// What a write of this table may change: its partitions and parents, what follows by foreign keys, and the tables
    /// under a view.
    pub(crate) fn written(&self, oid: u32) -> Effect {
        let mut reached = BTreeSet::new();
        let mut open = vec![oid];
        while let Some(oid) = open.pop() {
            if !reached.insert(oid) {
                continue;
            }
            let Some(relation) = self.relations.get(&oid) else {
                return Effect::Everything;
            };
            if relation.runs_code || relation.kind == Kind::Elsewhere {
                return Effect::Everything;
            }
            if let (Kind::View, Some(definition)) = (relation.kind, &relation.definition) {
                for table in StatementFacts::of(definition).reads() {
                    match self.find(table) {
                        Some(base) => open.push(base),
                        None => return Effect::Everything,
                    }
                }
            }
            open.extend(
                relation
                    .parents
                    .iter()
                    .chain(&relation.children)
                    .chain(&relation.cascades),
            );
        }
        Effect::Tables(reached)
    }

    /// The same for a name, which may be written as in SQL.
    pub(crate) fn written_by_name(&self, name: &str) -> Effect {
        let facts = StatementFacts::of(&format!("TABLE {name}"));
        match facts.reads() {
            [table] => self.find(table).map_or(Effect::Everything, |oid| self.written(oid)),
            _ => Effect::Everything,
        }
    }
}
