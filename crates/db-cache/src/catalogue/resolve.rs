//! Which tables an answer depends on.

use super::{Catalogue, Kind, Uncacheable, Volatility};
use db_core::{StatementFacts, StatementKind};
use std::collections::BTreeSet;

/// Views in views, functions in views: deeper is not followed.
const DEPTH: u32 = 16;
/// An answer that depends on more tables is not cached: each of them is looked at on every hit.
const TABLES: usize = 64;

/// Whether an answer may be kept at all, as far as the text alone says.
pub(super) fn plain(facts: &StatementFacts) -> Result<(), Uncacheable> {
    match facts {
        facts if facts.volatile() && facts.kind() == StatementKind::Read => Err(Uncacheable::Volatile),
        facts
            if facts.kind() != StatementKind::Read
                || facts.locking()
                || facts.touches_everything()
                || !facts.writes().is_empty()
                || !facts.is_self_contained() =>
        {
            Err(Uncacheable::NotARead)
        }
        facts if facts.depends_on_time() => Err(Uncacheable::Clock),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Walk {
    tables: BTreeSet<u32>,
    seen: BTreeSet<u32>,
    depth: u32,
}

impl Catalogue {
    /// The tables, by OID, that decide the answer of a statement.
    pub(crate) fn dependencies(&self, facts: &StatementFacts) -> Result<Vec<u32>, Uncacheable> {
        let mut walk = Walk::default();
        self.read(facts, false, &mut walk)?;
        Ok(walk.tables.into_iter().collect())
    }

    /// The same for one that its caller has tagged: what can't be found out is left to the tag.
    pub(crate) fn known_dependencies(&self, facts: &StatementFacts) -> Vec<u32> {
        let mut walk = Walk::default();
        for name in facts.reads() {
            if let Some(oid) = self.find(name) {
                walk.depth = 0;
                // What was found before the part that can't be known stays.
                let _ = self.relation(oid, false, &mut walk);
            }
        }
        walk.tables.into_iter().take(TABLES).collect()
    }

    /// A text inside another one: that it is not understood does not make the statement a write.
    fn inner(&self, text: &str, session: bool, walk: &mut Walk) -> Result<(), Uncacheable> {
        self.read(&StatementFacts::of(text), session, walk)
            .map_err(|reason| match reason {
                Uncacheable::NotARead => Uncacheable::Opaque,
                reason => reason,
            })
    }

    fn read(&self, facts: &StatementFacts, session: bool, walk: &mut Walk) -> Result<(), Uncacheable> {
        plain(facts)?;
        if facts.depends_on_session() && !session {
            return Err(Uncacheable::Session);
        }
        walk.depth += 1;
        if walk.depth > DEPTH {
            return Err(Uncacheable::Opaque);
        }
        if facts.opaque_function() && facts.unknown_functions().is_empty() {
            return Err(Uncacheable::Opaque);
        }
        for name in self.called(facts) {
            let mut known = false;
            for function in self.functions(&name) {
                known = true;
                match (function.volatility, &function.body) {
                    (Volatility::Volatile, _) => return Err(Uncacheable::Volatile),
                    // By its author's word it does not look at the database.
                    (Volatility::Immutable, _) => {}
                    (Volatility::Stable, Some(body)) if walk.seen.insert(function.oid) => {
                        self.inner(body, session, walk)?;
                    }
                    (Volatility::Stable, Some(_)) => {}
                    (Volatility::Stable, None) => return Err(Uncacheable::Opaque),
                }
            }
            if !known {
                return Err(Uncacheable::Opaque);
            }
        }
        for name in facts.reads() {
            self.relation(self.find(name).ok_or(Uncacheable::Opaque)?, session, walk)?;
        }
        walk.depth -= 1;
        Ok(())
    }

    fn relation(&self, oid: u32, session: bool, walk: &mut Walk) -> Result<(), Uncacheable> {
        let relation = self.relations.get(&oid).ok_or(Uncacheable::Opaque)?;
        if !walk.seen.insert(oid) {
            return Ok(());
        }
        if relation.computed {
            return Err(Uncacheable::Opaque);
        }
        match (relation.kind, &relation.definition) {
            (Kind::Table, _) => {
                walk.tables.insert(oid);
                if walk.tables.len() > TABLES {
                    return Err(Uncacheable::Opaque);
                }
                for policy in &relation.policies {
                    // Role, tenant and settings are in the key: what a condition says of the session is settled.
                    self.inner(policy, true, walk)?;
                }
                Ok(())
            }
            (Kind::View, Some(definition)) => self.inner(definition, session, walk),
            _ => Err(Uncacheable::Opaque),
        }
    }
}
