//! Facts by SQL text, bounded in number and in bytes.

use super::{StatementFacts, TableName};
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use std::{fmt, sync::Arc};

/// Remembers the facts of the texts that were seen most. Shared by reference; a hit allocates nothing.
pub struct FactsCache(Cache<Box<str>, Arc<StatementFacts>, Weight, foldhash::fast::RandomState>);

impl FactsCache {
    /// The default bound on the number of texts.
    pub const ENTRIES: usize = 4096;
    /// The default bound on the bytes held.
    pub const BYTES: usize = 16 * 1024 * 1024;

    /// A cache of at most `entries` texts and about `bytes` bytes, whichever is reached first.
    pub fn new(entries: usize, bytes: usize) -> Self {
        let (entries, bytes) = (entries.max(1), bytes.max(1));
        // An entry weighs at least its share of the bytes, so one capacity bounds both.
        let weight = Weight {
            least: bytes.div_ceil(entries) as u64,
        };
        // Few shards, so that a long text still fits into its shard's part of the bytes.
        let options = OptionsBuilder::new()
            .shards(16.min(entries))
            .estimated_items_capacity(entries)
            .weight_capacity(bytes as u64)
            .build()
            .expect("both capacities are given");
        Self(Cache::with_options(
            options,
            weight,
            foldhash::fast::RandomState::default(),
            DefaultLifecycle::default(),
        ))
    }

    /// The facts of `sql`, worked out at the first call; again each time for a text too long to be kept.
    pub fn facts(&self, sql: &str) -> Arc<StatementFacts> {
        self.0.get(sql).unwrap_or_else(|| self.learn(sql))
    }

    #[cold]
    fn learn(&self, sql: &str) -> Arc<StatementFacts> {
        let facts = Arc::new(StatementFacts::of(sql));
        self.0.insert(sql.into(), Arc::clone(&facts));
        facts
    }

    /// The number of texts held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no text is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for FactsCache {
    fn default() -> Self {
        Self::new(Self::ENTRIES, Self::BYTES)
    }
}

impl fmt::Debug for FactsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the texts: they may hold literals.
        f.debug_struct("FactsCache")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Weight {
    least: u64,
}

impl Weighter<Box<str>, Arc<StatementFacts>> for Weight {
    fn weight(&self, sql: &Box<str>, facts: &Arc<StatementFacts>) -> u64 {
        let names = |tables: &[TableName]| -> usize {
            let name = |t: &TableName| t.name.len() + t.schema.as_ref().map_or(0, |s| s.len());
            tables.iter().map(|t| size_of::<TableName>() + name(t)).sum()
        };
        let held = size_of::<StatementFacts>()
            + sql.len()
            + facts.normalized.len()
            + facts.summary.len()
            + names(&facts.reads)
            + names(&facts.writes)
            + names(&facts.functions);
        self.least.max(held as u64)
    }
}
