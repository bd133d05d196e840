//! What is prepared on one connection: followed from the size of the driver's own cache, which shows no more.

use crate::statements::Statements;
use db_core::StatementFacts;
use sqlx::SqlStr;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// Texts of which a connection knows that they were prepared on it before, for each that it can hold.
const REMEMBERED: usize = 4;

/// One connection's statements. Gone with the connection.
pub(crate) struct Book {
    pool: Arc<Statements>,
    number: u64,
    capacity: usize,
    /// The use of a text from which on it is prepared.
    from: u64,
    held: HashMap<u64, Held>,
    /// Those that were prepared here before.
    was: HashSet<u64>,
    clock: u64,
    /// How many there were, as the pool was told.
    filled: usize,
    /// Runs that found their text prepared: written by this connection alone.
    hits: Arc<AtomicU64>,
}

struct Held {
    facts: Arc<StatementFacts>,
    used: u64,
}

/// What one run has done to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The text was there.
    Hit,
    /// It was prepared; the cache has room.
    Prepared,
    /// It was prepared, and another one had to go.
    Replaced,
}

impl Book {
    pub(crate) fn new(pool: &Arc<Statements>, capacity: usize, from: u64) -> Self {
        let number = pool.numbers.fetch_add(1, Relaxed);
        let hits = Arc::default();
        pool.opened(number, &hits);
        Self {
            pool: pool.clone(),
            number,
            capacity,
            // A driver without a cache names each statement and never closes it: none may be named.
            from: if capacity == 0 { u64::MAX } else { from },
            held: HashMap::new(),
            was: HashSet::new(),
            clock: 0,
            filled: 0,
            hits,
        }
    }

    pub(crate) fn prepare_from(&self) -> u64 {
        self.from
    }

    /// A text has run. While the cache has room and keeps its size this is a comparison.
    pub(crate) fn ran(
        &mut self,
        facts: &Arc<StatementFacts>,
        sql: &SqlStr,
        before: usize,
        after: usize,
    ) -> Option<Fresh<'_>> {
        if self.capacity == 0 {
            return None;
        }
        if after == before && after < self.capacity {
            self.hit();
            return None;
        }
        self.changed(facts, sql, before, after)
    }

    #[cold]
    fn changed(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr, before: usize, after: usize) -> Option<Fresh<'_>> {
        let text = facts.text_id();
        self.clock += 1;
        if let Some(held) = self.held.get_mut(&text).filter(|_| after == before) {
            held.used = self.clock;
            self.hit();
            return None;
        }
        let change = if after > before {
            Change::Prepared
        } else if after < before || self.held.len() < after {
            // What the book does not know may have been prepared by others, by raw use for one.
            Change::Hit
        } else {
            Change::Replaced
        };
        if change == Change::Hit {
            self.hit();
        } else {
            let again = !self.remember(text);
            let gone = (change == Change::Replaced).then(|| self.oldest()).flatten();
            self.pool
                .prepared(facts, sql, again, gone, self.capacity, Instant::now());
        }
        if self.hold(facts) && change == Change::Hit {
            self.pool.seen(facts, sql);
        }
        self.fill(after);
        (change != Change::Hit).then_some(Fresh { pool: &self.pool, text })
    }

    /// No lock and no contention: nobody else writes here.
    fn hit(&self) {
        self.hits.store(self.hits.load(Relaxed) + 1, Relaxed);
    }

    /// It was prepared before the connection was handed out.
    pub(crate) fn warmed(&mut self, facts: &Arc<StatementFacts>) {
        self.remember(facts.text_id());
        self.hold(facts);
        self.fill(self.held.len());
    }

    /// The connection has forgotten its statements: they were out of date.
    pub(crate) fn forget(&mut self) {
        self.pool.forgotten(self.filled);
        self.held.clear();
        self.fill(0);
    }

    fn fill(&mut self, statements: usize) {
        if self.filled != statements {
            self.filled = statements;
            self.pool.filled(self.number, statements);
        }
    }

    /// Whether the book did not know of it.
    fn hold(&mut self, facts: &Arc<StatementFacts>) -> bool {
        let (text, held) = (
            facts.text_id(),
            Held {
                facts: facts.clone(),
                used: self.clock,
            },
        );
        let new = self.held.insert(text, held).is_none();
        // Only where the book has lost count: the driver holds no more than this.
        while self.held.len() > self.capacity.max(1) {
            self.oldest();
        }
        new
    }

    /// Whether it is new here.
    fn remember(&mut self, text: u64) -> bool {
        if self.was.len() >= self.capacity.saturating_mul(REMEMBERED) {
            self.was.clear();
        }
        self.was.insert(text)
    }

    /// Takes out the one that was not used for longest, as the driver does.
    fn oldest(&mut self) -> Option<Arc<StatementFacts>> {
        let text = *self.held.iter().min_by_key(|(_, held)| held.used)?.0;
        self.held.remove(&text).map(|held| held.facts)
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.pool.gone(self.number);
    }
}

/// A text that the connection has just prepared: the types of its parameters can be had for nothing now.
pub(crate) struct Fresh<'a> {
    pub(crate) pool: &'a Arc<Statements>,
    pub(crate) text: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::SqlSafeStr;

    fn text(n: u32) -> (Arc<StatementFacts>, SqlStr) {
        let sql = format!("SELECT {n}, $1");
        (
            Arc::new(StatementFacts::of(&sql)),
            sqlx::AssertSqlSafe(sql).into_sql_str(),
        )
    }

    fn book(capacity: usize) -> (Arc<Statements>, Book) {
        let pool = Arc::new(Statements::default());
        let book = Book::new(&pool, capacity, 1);
        (pool, book)
    }

    #[test]
    fn hits_cost_nothing_and_evictions_are_those_of_the_driver() {
        let (pool, mut book) = book(2);
        let (a, b, c) = (text(1), text(2), text(3));
        assert!(book.ran(&a.0, &a.1, 0, 1).is_some());
        assert!(book.ran(&a.0, &a.1, 1, 1).is_none(), "a hit");
        assert!(book.ran(&b.0, &b.1, 1, 2).is_some());
        assert!(book.ran(&a.0, &a.1, 2, 2).is_none(), "a hit in a full cache");
        assert!(book.ran(&c.0, &c.1, 2, 2).is_some(), "b had to go");
        assert!(book.ran(&a.0, &a.1, 2, 2).is_none());
        assert!(book.ran(&b.0, &b.1, 2, 2).is_some(), "prepared again");
        let stats = pool.stats();
        assert_eq!((stats.prepares, stats.again, stats.evictions), (4, 1, 2));
        let totals = pool.totals();
        assert_eq!(
            (totals.used, totals.prepared, totals.evicted, totals.stale),
            (3, 4, 2, 0)
        );
        assert_eq!(totals.thrashed, 1, "b was there before c pushed it out");
        assert_eq!(stats.fill, [2]);
        book.forget();
        assert_eq!(pool.stats().fill, [0]);
        assert!(book.ran(&a.0, &a.1, 0, 1).is_some());
        assert_eq!(pool.stats().again, 2, "after the epoch it is prepared again");
        assert!(book.ran(&a.0, &a.1, 1, 1).is_none());
        drop(book);
        assert!(pool.stats().fill.is_empty());
        let totals = pool.totals();
        assert_eq!(
            (totals.used, totals.prepared, totals.evicted, totals.stale),
            (4, 5, 2, 2)
        );
        assert_eq!(totals.thrashed, 1, "nothing pushed it out this time");
    }

    #[test]
    fn without_a_cache_nothing_is_prepared() {
        let (_, mut book) = book(0);
        assert_eq!(book.prepare_from(), u64::MAX);
        let a = text(1);
        book.ran(&a.0, &a.1, 0, 0);
        assert!(book.held.len() <= 1);
        assert_eq!(book.hits.load(Relaxed), 0);
    }

    #[test]
    fn what_a_connection_remembers_is_bounded() {
        let (pool, mut book) = book(4);
        for n in 0..10_000 {
            let one = text(n);
            let before = 4.min(n as usize);
            book.ran(&one.0, &one.1, before, (before + 1).min(4));
        }
        assert!(book.held.len() <= 4 && book.was.len() <= 16);
        assert!(pool.stats().texts <= Statements::TEXTS);
        assert_eq!(pool.stats().evictions, 10_000 - 4);
    }
}
