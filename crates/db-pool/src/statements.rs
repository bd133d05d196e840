//! Prepared statements over all connections of a pool: figures, a warning when they push each other out, and what a new
//! connection prepares before anybody gets it.

use crate::{
    statement_stats::{StatementStats, StatementTotals, StatementUse},
    thrash::Thrash,
};
use db_core::{
    Event, Fingerprint, Observers, StatementFacts,
    config::{Checks, duration},
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Either, Executor, PgConnection, SqlStr, Statement as _, postgres::PgTypeInfo};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A text that the server has refused so often to prepare ahead is left to those who run it.
const REFUSED: u32 = 3;
/// Parsing waits for whoever changes a table; preparing ahead must not.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL lock_timeout = '10ms'; SET LOCAL statement_timeout = '100ms'";
const AGAIN: &str = "ROLLBACK; BEGIN READ ONLY; SET LOCAL lock_timeout = '10ms'; SET LOCAL statement_timeout = '100ms'";

/// Prepared statements. How many a connection keeps is `connection.statement_cache_capacity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatementsConfig {
    /// The use of a text from which on it is kept prepared, counted over the process. For connections opened from now on. Default 1 (an unnamed statement
    /// costs two trips each time), 1..=1000000.
    pub prepare_from: u64,
    /// The texts of most use that a new connection prepares before it is handed out. Default 8 (own choice: two trips
    /// each, a few milliseconds in one data centre), 0..=1000; 0 prepares none.
    pub warm: u32,
    /// No further text is begun after this time. Default 50 ms (own choice: somebody may be waiting), 1ms..=1h.
    #[serde(with = "duration")]
    pub warm_within: Duration,
}

impl Default for StatementsConfig {
    fn default() -> Self {
        Self {
            prepare_from: 1,
            warm: 8,
            warm_within: Duration::from_millis(50),
        }
    }
}

impl StatementsConfig {
    pub(crate) fn validate(&self, c: &mut Checks) {
        c.range("prepare_from", &self.prepare_from, 1..=1_000_000);
        c.range("warm", &self.warm, 0..=1000);
        let hour = Duration::from_secs(3600);
        c.range("warm_within", &self.warm_within, Duration::from_millis(1)..=hour);
    }
}

struct Known {
    facts: Arc<StatementFacts>,
    sql: SqlStr,
    /// What a run of it was prepared with: any other types would stand in the way of the callers'.
    types: Option<Vec<PgTypeInfo>>,
    refused: u32,
    prepares: u64,
    again: u64,
    evictions: u64,
}

/// What is known of the statements of all connections. Only looked at when something is prepared, or asked.
#[derive(Default)]
pub(crate) struct Statements {
    pub(crate) numbers: AtomicU64,
    observers: Observers,
    warmed: AtomicU64,
    /// Statements forgotten because they were out of date.
    stale: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    known: HashMap<u64, Known>,
    open: BTreeMap<u64, Open>,
    /// Hits on connections that are closed.
    past_hits: u64,
    prepares: u64,
    again: u64,
    thrashed: u64,
    evictions: u64,
    thrash: Thrash,
}

/// An open connection.
struct Open {
    /// Statements that it holds.
    fill: usize,
    /// Written by the connection.
    hits: Arc<AtomicU64>,
}

impl Statements {
    /// Texts that are known at most.
    pub(crate) const TEXTS: usize = 1024;

    pub(crate) fn new(observers: Observers) -> Self {
        Self {
            observers,
            ..Self::default()
        }
    }

    /// A connection has prepared a text; `again` on this connection, and `gone` had to make room.
    pub(crate) fn prepared(
        &self,
        facts: &Arc<StatementFacts>,
        sql: &SqlStr,
        again: bool,
        gone: Option<Arc<StatementFacts>>,
        capacity: usize,
        now: Instant,
    ) {
        let thrash = {
            let mut books = self.books.lock();
            let books = &mut *books;
            books.prepares += 1;
            books.again += u64::from(again);
            if let Some(gone) = &gone {
                books.evictions += 1;
                if let Some(known) = books.known.get_mut(&gone.text_id()) {
                    known.evictions += 1;
                }
            }
            let known = books.known(facts, sql);
            known.prepares += 1;
            known.again += u64::from(again);
            // The facts of a text that was not seen for long were worked out anew, and count anew.
            known.facts = facts.clone();
            let thrashed = again && gone.is_some();
            books.thrashed += u64::from(thrashed);
            thrashed.then(|| books.thrash.again(now)).flatten()
        };
        if let Some(again) = thrash {
            tracing::warn!(
                again,
                within = ?Thrash::WINDOW,
                capacity,
                statement = %facts.fingerprint(),
                "prepared statements push each other out: connection.statement_cache_capacity is too small, or texts \
                 differ in literals that should be parameters"
            );
            self.observers.tell(|| Event::StatementsThrash {
                again,
                within: Thrash::WINDOW,
                statement: facts.fingerprint(),
                capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
            });
        }
    }

    /// A connection has had the text, nobody saw since when.
    pub(crate) fn seen(&self, facts: &Arc<StatementFacts>, sql: &SqlStr) {
        self.books.lock().known(facts, sql);
    }

    /// The parameters' types of a text that `pg` holds; without a trip, or not at all.
    pub(crate) fn learn(&self, text: u64, pg: &mut PgConnection) {
        let sql = match self.books.lock().known.get(&text) {
            Some(known) if known.types.is_none() => known.sql.clone(),
            _ => return,
        };
        // The driver answers from its cache; where it would have to ask the server, the next one to prepare it learns.
        let Some(Ok(statement)) = pg.prepare(sql).now_or_never() else {
            return;
        };
        let Some(Either::Left(types)) = statement.parameters() else {
            return;
        };
        if let Some(known) = self.books.lock().known.get_mut(&text) {
            known.types = Some(types.to_vec());
        }
    }

    pub(crate) fn opened(&self, connection: u64, hits: &Arc<AtomicU64>) {
        let open = Open {
            fill: 0,
            hits: hits.clone(),
        };
        self.books.lock().open.insert(connection, open);
    }

    pub(crate) fn filled(&self, connection: u64, statements: usize) {
        if let Some(open) = self.books.lock().open.get_mut(&connection) {
            open.fill = statements;
        }
    }

    pub(crate) fn gone(&self, connection: u64) {
        let mut books = self.books.lock();
        if let Some(open) = books.open.remove(&connection) {
            books.past_hits += open.hits.load(Relaxed);
        }
    }

    pub(crate) fn forgotten(&self, statements: usize) {
        self.stale.fetch_add(statements as u64, Relaxed);
    }

    /// Another server stands behind the endpoint: the numbers of its types may be others.
    pub(crate) fn moved(&self) {
        for known in self.books.lock().known.values_mut() {
            known.types = None;
        }
    }

    /// The texts of most use with their types.
    fn hottest(&self, count: usize) -> Vec<(Arc<StatementFacts>, SqlStr, Vec<PgTypeInfo>)> {
        let books = self.books.lock();
        let mut hot: Vec<_> = books
            .known
            .values()
            .filter(|known| known.refused < REFUSED)
            .filter_map(|known| Some((known, known.types.as_ref()?)))
            .collect();
        hot.sort_by_key(|(known, _)| std::cmp::Reverse(known.facts.uses()));
        hot.truncate(count);
        hot.into_iter()
            .map(|(known, types)| (known.facts.clone(), known.sql.clone(), types.clone()))
            .collect()
    }

    /// Prepares the texts of most use on a connection that nobody has yet: those that it holds afterwards. Two trips and
    /// one for each text.
    ///
    /// # Errors
    /// When the connection is of no use. What the server refuses, and a table that is locked, is passed over.
    pub(crate) async fn warm(
        &self,
        pg: &mut PgConnection,
        capacity: usize,
        config: &StatementsConfig,
    ) -> sqlx::Result<Vec<Arc<StatementFacts>>> {
        let count = usize::try_from(config.warm).unwrap_or(usize::MAX).min(capacity);
        let hot = self.hottest(count);
        let mut held = Vec::new();
        if hot.is_empty() {
            return Ok(held);
        }
        let since = Instant::now();
        pg.execute(sqlx::raw_sql(BEGIN)).await?;
        for (facts, sql, types) in hot {
            if since.elapsed() >= config.warm_within {
                break;
            }
            match pg.prepare_with(sql, &types).await {
                Ok(_) => held.push(facts),
                Err(sqlx::Error::Database(_)) => {
                    // Perhaps its table is locked, or gone, or another tenant's.
                    if let Some(known) = self.books.lock().known.get_mut(&facts.text_id()) {
                        known.refused += 1;
                    }
                    pg.execute(sqlx::raw_sql(AGAIN)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        pg.execute(sqlx::raw_sql("ROLLBACK")).await?;
        debug_assert!(pg.cached_statements_size() >= held.len());
        self.warmed.fetch_add(held.len() as u64, Relaxed);
        Ok(held)
    }

    pub(crate) fn totals(&self) -> StatementTotals {
        let books = self.books.lock();
        let open: u64 = books.open.values().map(|open| open.hits.load(Relaxed)).sum();
        StatementTotals {
            used: books.past_hits + open,
            prepared: books.prepares,
            thrashed: books.thrashed,
            evicted: books.evictions,
            stale: self.stale.load(Relaxed),
        }
    }

    pub(crate) fn stats(&self) -> StatementStats {
        let books = self.books.lock();
        let mut by: HashMap<Fingerprint, (StatementUse, Duration, u32)> = HashMap::new();
        for known in books.known.values() {
            let facts = &known.facts;
            let (one, time, timed) = by.entry(facts.fingerprint()).or_insert_with(|| {
                let one = StatementUse {
                    fingerprint: facts.fingerprint(),
                    summary: facts.summary().to_owned(),
                    uses: 0,
                    hits: 0,
                    prepares: 0,
                    again: 0,
                    evictions: 0,
                    mean_ms: None,
                };
                (one, Duration::ZERO, 0)
            });
            one.uses += facts.uses();
            one.prepares += known.prepares;
            one.again += known.again;
            one.evictions += known.evictions;
            if let Some(mean) = facts.mean_time() {
                // Each text counts by its uses.
                let weight = u32::try_from(facts.uses()).unwrap_or(u32::MAX);
                *time = time.saturating_add(mean.saturating_mul(weight));
                *timed = timed.saturating_add(weight);
            }
        }
        let mut statements: Vec<_> = by
            .into_values()
            .map(|(mut one, time, timed)| {
                one.hits = one.uses.saturating_sub(one.prepares);
                one.mean_ms = (timed > 0).then(|| time.as_secs_f64() * 1e3 / f64::from(timed));
                one
            })
            .collect();
        statements.sort_by_key(|one| (std::cmp::Reverse(one.uses), one.fingerprint));
        StatementStats {
            prepares: books.prepares,
            again: books.again,
            evictions: books.evictions,
            warmed: self.warmed.load(Relaxed),
            texts: books.known.len(),
            fill: books.open.values().map(|open| open.fill).collect(),
            statements,
        }
    }
}

impl Books {
    fn known(&mut self, facts: &Arc<StatementFacts>, sql: &SqlStr) -> &mut Known {
        if !self.known.contains_key(&facts.text_id()) {
            self.make_room();
        }
        self.known.entry(facts.text_id()).or_insert_with(|| Known {
            facts: facts.clone(),
            sql: sql.clone(),
            types: None,
            refused: 0,
            prepares: 0,
            again: 0,
            evictions: 0,
        })
    }

    /// Forgets the lesser used half when there are too many: texts with literals come by the thousand, each once.
    fn make_room(&mut self) {
        if self.known.len() < Statements::TEXTS {
            return;
        }
        let mut uses: Vec<u64> = self.known.values().map(|known| known.facts.uses()).collect();
        uses.sort_unstable();
        let middle = uses[uses.len() / 2];
        let mut spare = self.known.len() / 2;
        self.known.retain(|_, known| {
            let stays = spare == 0 || known.facts.uses() > middle;
            spare -= usize::from(!stays);
            stays
        });
    }
}
