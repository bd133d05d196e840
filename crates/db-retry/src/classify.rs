//! What to do about a failure, by *what is known to have happened*: one pure function over the table of SQLSTATEs.

mod find;
#[cfg(test)]
mod table;

use db_core::{Call, Error, RetryCause, StatementFacts};
use find::{AtCommit, Finding, Hope};

/// What running the call twice would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// No harm: it only reads.
    Read,
    /// Perhaps harm.
    Write,
    /// No harm, by the caller's word ([`Call::idempotent`]).
    Idempotent,
}

impl Effect {
    /// By the statement's facts, else by the caller's word, else [`Effect::Write`].
    pub fn of(call: &Call, facts: Option<&StatementFacts>) -> Self {
        match facts {
            Some(facts) if facts.is_pure_read() => Self::Read,
            _ if call.idempotent => Self::Idempotent,
            _ => Self::Write,
        }
    }
}

/// How far the call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Outside a transaction of the caller's.
    Autocommit,
    /// Inside one, or on the way to one; COMMIT has not been sent.
    InTransaction,
    /// COMMIT has been sent.
    Commit,
}

/// What is known about a call besides its error. Start from [`Situation::new`] and set what is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Situation {
    /// What running it twice would do. In a transaction only the whole of it counts, not this.
    pub effect: Effect,
    /// How far it had come.
    pub phase: Phase,
    /// Whether it can run again: no row has been handed out, the transaction's body may be called twice. Default true.
    pub replayable: bool,
    /// Whether a rejection by the server has undone all of it ([`db_core::Operation::all_or_nothing`]). Default true.
    pub all_or_nothing: bool,
    /// How many attempts have failed, this one included. Default 1.
    pub attempt: u32,
    /// Whether the caller's own transaction is read-only, so that 25006 is about its statement and not about the node.
    /// Default false.
    pub read_only: bool,
    /// Whether it ran on a standby, so that the primary may do better. Default false.
    pub standby: bool,
    /// As [`RetryConfig::pooler`](crate::RetryConfig::pooler). Default false.
    pub pooler: bool,
    /// As [`RetryConfig::lock_timeouts`](crate::RetryConfig::lock_timeouts). Default false.
    pub lock_timeouts: bool,
}

impl Situation {
    /// The first attempt of a call that can be replayed and is undone when rejected, on the primary.
    pub fn new(effect: Effect, phase: Phase) -> Self {
        Self {
            effect,
            phase,
            replayable: true,
            all_or_nothing: true,
            attempt: 1,
            read_only: false,
            standby: false,
            pooler: false,
            lock_timeouts: false,
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Hand the error to the caller.
    Never,
    /// Run it once more, at once, on another connection (for [`RetryCause::Standby`]: on the primary). The layer takes
    /// `Once` by cause; and for [`RetryCause::StalePlan`], of which every connection may have one, up to its attempts.
    Once(RetryCause),
    /// Run it again after a pause, within budget and deadline.
    Backoff(RetryCause),
    /// Run the whole transaction again, as for [`Verdict::Backoff`].
    RerunTransaction(RetryCause),
    /// It may have taken effect, and nobody may repeat it: tell the caller just that.
    Ambiguous,
}

/// What is known to have happened on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing: it was not sent, or met a session that had ended.
    NotSent,
    /// The server refused it, and undid what it had begun.
    Rejected,
    /// It may have run to its end.
    MayHaveRun,
}

/// What is known to have happened, from the error alone.
pub fn fate(error: &Error) -> Fate {
    find::finding(error, &Situation::new(Effect::Write, Phase::Autocommit)).fate
}

/// What to do about `error`.
///
/// Not sent: any statement may run again. Rejected for a passing reason: any statement that the rejection undid. May have
/// run: only true reads, and what the caller calls idempotent. In a transaction nothing but all of it, and after COMMIT
/// was sent only when the server definitely rolled back.
pub fn decide(error: &Error, situation: &Situation) -> Verdict {
    find::finding(error, situation).verdict(situation)
}

impl Finding {
    fn verdict(self, situation: &Situation) -> Verdict {
        if self.unknowable {
            return Verdict::Ambiguous;
        }
        match situation.phase {
            Phase::Autocommit => self.alone(situation),
            Phase::InTransaction => self.in_transaction(situation),
            Phase::Commit => self.at_commit(situation),
        }
    }

    fn alone(self, situation: &Situation) -> Verdict {
        let reads = situation.effect == Effect::Read;
        let doubt = self.fate == Fate::MayHaveRun && !self.answered && !reads;
        let safe = match (situation.effect, self.fate) {
            (Effect::Read | Effect::Idempotent, _) | (_, Fate::NotSent) => true,
            (Effect::Write, Fate::Rejected) => situation.all_or_nothing,
            (Effect::Write, Fate::MayHaveRun) => false,
        };
        match self.hope {
            Hope::Never if doubt => Verdict::Ambiguous,
            Hope::Never => Verdict::Never,
            _ if !reads && !self.for_writes => Verdict::Never,
            _ if !safe => Verdict::Ambiguous,
            _ if !situation.replayable && doubt => Verdict::Ambiguous,
            _ if !situation.replayable => Verdict::Never,
            Hope::Once(cause) => Verdict::Once(cause),
            Hope::Backoff(cause) => Verdict::Backoff(cause),
        }
    }

    fn in_transaction(self, situation: &Situation) -> Verdict {
        match self.hope {
            Hope::Once(cause) | Hope::Backoff(cause) if self.for_transactions && situation.replayable => {
                Verdict::RerunTransaction(cause)
            }
            _ => Verdict::Never,
        }
    }

    fn at_commit(self, situation: &Situation) -> Verdict {
        match self.at_commit {
            AtCommit::RolledBack => self.in_transaction(situation),
            AtCommit::Final => Verdict::Never,
            AtCommit::Unknown => Verdict::Ambiguous,
        }
    }
}
