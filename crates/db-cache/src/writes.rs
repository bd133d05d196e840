//! Writes through the stack: what they reach is dropped before the writer hears of their end, however they end.

use crate::{cache::Cache, catalogue::Effect};
use db_core::{CacheDrop, Error, Result, Sent, StatementFacts};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

/// Different statements of a transaction that are remembered; with more, it counts as having written anything.
const STATEMENTS: usize = 64;

/// What is known of a write that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// It took effect, or what part of it did is settled.
    Settled,
    /// Surely not executed, or undone.
    Nothing,
    /// Nobody knows: it may even take effect later.
    Unknown,
}

impl Wrote {
    /// What an attempt's result says; `all_or_nothing` when a refusal of the server undoes all of it.
    pub fn of<T>(result: &Result<T>, all_or_nothing: bool) -> Self {
        match result {
            Ok(_) => Self::Settled,
            Err(
                Error::Acquire(_)
                | Error::Network { sent: Sent::No, .. }
                | Error::Config(_)
                | Error::Breaker(_)
                | Error::NeedsSession(_),
            ) => Self::Nothing,
            Err(Error::Timeout(timeout)) if timeout.sent == Sent::No => Self::Nothing,
            Err(Error::Server(server)) if server.state().is_ambiguous() => Self::Unknown,
            Err(Error::Server(_)) if all_or_nothing => Self::Nothing,
            Err(Error::Server(_) | Error::Client(_)) => Self::Settled,
            Err(_) => Self::Unknown,
        }
    }
}

/// One write under way. Dropped without an end, its outcome is unknown.
#[must_use = "dropped at once, it drops too early"]
pub struct Writing {
    cache: Cache,
    /// `None`: anything.
    facts: Option<Arc<StatementFacts>>,
    ended: bool,
}

impl Cache {
    /// Before a statement runs; `None` for one that only reads. Without facts it may do anything.
    pub fn writing(&self, facts: Option<&Arc<StatementFacts>>) -> Option<Writing> {
        if facts.is_some_and(|facts| self.is_harmless(facts)) {
            return None;
        }
        Some(Writing {
            cache: self.clone(),
            facts: facts.cloned(),
            ended: false,
        })
    }

    /// Before somebody gets a connection on which anything may be written at any moment. Until the guard is gone
    /// nothing is given out of memory and nothing is kept.
    pub fn writer(&self) -> Writer {
        self.shared.versions.writer_came();
        self.shared.tell_dropped(CacheDrop::Anything, None);
        Writer {
            cache: self.clone(),
            doubt: false,
        }
    }

    /// What a transaction writes, from its begin on.
    pub fn transaction(&self) -> TransactionWrites {
        TransactionWrites {
            cache: self.clone(),
            facts: Vec::new(),
            anything: false,
            phase: Phase::Open,
        }
    }

    fn is_harmless(&self, facts: &StatementFacts) -> bool {
        facts.is_pure_read() && !self.shared.shadowed.load(Ordering::Relaxed)
    }

    /// Applies what has been written. Before anybody has asked for a cached answer there is nothing to drop.
    fn wrote(&self, effect: &Effect, wrote: Wrote) {
        if wrote == Wrote::Nothing || !self.shared.in_use.load(Ordering::SeqCst) {
            return;
        }
        match wrote {
            Wrote::Unknown => self.shared.apply_in_doubt(effect),
            _ => self.shared.apply(effect, CacheDrop::Write),
        }
    }
}

impl Writing {
    /// It has ended.
    pub fn end(mut self, wrote: Wrote) {
        self.ended = true;
        self.apply(wrote);
    }

    fn apply(&self, wrote: Wrote) {
        let effect = match &self.facts {
            Some(facts) => self.cache.shared.effect(facts),
            None => Effect::Everything,
        };
        self.cache.wrote(&effect, wrote);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.ended {
            self.apply(Wrote::Unknown);
        }
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writing")
    }
}

/// Somebody who may write anything at any moment.
#[must_use = "nothing is cached as long as this lives, and everything may be once it is gone"]
pub struct Writer {
    cache: Cache,
    doubt: bool,
}

impl Writer {
    /// The connection has gone with work in flight: what was sent on it may yet take effect.
    pub fn gone_in_doubt(mut self) {
        self.doubt = true;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.doubt {
            self.cache.wrote(&Effect::Everything, Wrote::Unknown);
        }
        self.cache.shared.versions.writer_gone();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Committing,
    Ended,
}

/// What one transaction has written so far. Dropped while it commits, its outcome is unknown; dropped open, it is rolled
/// back.
pub struct TransactionWrites {
    cache: Cache,
    facts: Vec<Arc<StatementFacts>>,
    anything: bool,
    phase: Phase,
}

impl TransactionWrites {
    /// A statement runs in it.
    pub fn ran(&mut self, facts: &Arc<StatementFacts>) {
        if self.cache.is_harmless(facts) || self.facts.iter().any(|known| Arc::ptr_eq(known, facts)) {
            return;
        }
        if self.facts.len() < STATEMENTS {
            self.facts.push(Arc::clone(facts));
        } else {
            self.anything = true;
        }
    }

    /// Somebody had the bare connection: anything may have been written, and committed. `true` the first time.
    pub fn raw(&mut self) -> bool {
        !std::mem::replace(&mut self.anything, true)
    }

    /// COMMIT is about to be sent.
    pub fn committing(&mut self) {
        self.phase = Phase::Committing;
    }

    /// It has ended. What was written raw counts even if it was rolled back.
    pub fn end(&mut self, wrote: Wrote) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        if wrote == Wrote::Nothing && !self.anything {
            return;
        }
        let everything = Effect::Everything;
        let mut effect = if self.anything { everything } else { Effect::Nothing };
        for facts in &self.facts {
            effect = effect.and(self.cache.shared.effect(facts));
        }
        self.cache
            .wrote(&effect, if wrote == Wrote::Nothing { Wrote::Settled } else { wrote });
    }
}

impl Drop for TransactionWrites {
    fn drop(&mut self) {
        match self.phase {
            Phase::Open => self.end(Wrote::Nothing),
            Phase::Committing => self.end(Wrote::Unknown),
            Phase::Ended => {}
        }
    }
}

impl fmt::Debug for TransactionWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionWrites")
            .field("statements", &self.facts.len())
            .field("anything", &self.anything)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
