//! What the layers tell about themselves. No layer knows who listens.

use crate::{
    AcquireFailure, BanReason, BreakerCause, BreakerState, CacheDrop, CloseReason, Fingerprint, GaveUp, LimitOrigin,
    LimitReason, Priority, QueryClass, RetryCause, SqlState, Suspect,
};
use std::{panic::Location, sync::Arc, time::Duration};

/// How quarantine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Clean again and back in use.
    Reused,
    /// Closed.
    Closed,
}

/// Something that happened in the stack.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connection was opened.
    Connected {
        /// From the first byte to a session that is set up.
        took: Duration,
    },
    /// An attempt to open a connection failed.
    ConnectFailed {
        /// What it means for callers.
        failure: AcquireFailure,
        /// The driver's message.
        message: Arc<str>,
        /// When the next attempt is made.
        retry_in: Option<Duration>,
    },
    /// A connection was closed.
    Closed {
        /// Why.
        reason: CloseReason,
        /// How old it was.
        age: Duration,
    },
    /// A caller waited for a lease for longer than `slow_acquire`.
    SlowAcquire {
        /// How long.
        waited: Duration,
        /// Whether it got one in the end.
        served: bool,
        /// Where it asked.
        site: Option<&'static Location<'static>>,
        /// The class of its call.
        class: QueryClass,
        /// How urgent its call was.
        priority: Priority,
    },
    /// A caller got no lease.
    AcquireFailed {
        /// Why.
        failure: AcquireFailure,
        /// How long it waited.
        waited: Duration,
        /// Where it asked.
        site: Option<&'static Location<'static>>,
        /// How urgent its call was.
        priority: Priority,
    },
    /// In observe mode: a caller would have been refused.
    WouldRefuse {
        /// Why.
        failure: AcquireFailure,
        /// How urgent its call was.
        priority: Priority,
    },
    /// Statements push each other out of the connections' caches: they were prepared again and again within `within`.
    /// Raise the capacity, or put what differs from text to text into parameters.
    StatementsThrash {
        /// Statements that were prepared again after they had been pushed out.
        again: u32,
        /// In this time.
        within: Duration,
        /// One of them.
        statement: Fingerprint,
        /// Statements that a connection keeps.
        capacity: u32,
    },
    /// A lease that was abandoned with work in flight, or was touched raw, has been dealt with.
    Quarantined {
        /// How it ended.
        outcome: LeaseOutcome,
        /// Whether work was in flight, or only the session state unknown.
        in_flight: bool,
        /// How long it took.
        took: Duration,
    },
    /// A call passed its limit and was given up; one that was refused because the limit had passed before it began
    /// has lasted for no time.
    TimedOut {
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// Where the caller made the call.
        site: Option<&'static Location<'static>>,
        /// How long it lasted.
        elapsed: Duration,
        /// The limit, from the start of the call.
        limit: Duration,
        /// Which limit it was.
        origin: LimitOrigin,
    },
    /// A call passed a limit that is only observed.
    WouldTimeOut {
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// Where the caller made the call.
        site: Option<&'static Location<'static>>,
        /// How long it lasted in the end.
        elapsed: Duration,
        /// The limit, from the start of the call.
        limit: Duration,
        /// Which limit it was.
        origin: LimitOrigin,
    },
    /// A call ended in time but used most of its limit.
    NearLimit {
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// Where the caller made the call.
        site: Option<&'static Location<'static>>,
        /// How long it lasted.
        elapsed: Duration,
        /// The limit, from the start of the call.
        limit: Duration,
        /// Which limit it was.
        origin: LimitOrigin,
    },
    /// A call took longer than its class should.
    SlowCall {
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// Where the caller made the call.
        site: Option<&'static Location<'static>>,
        /// How long it lasted.
        elapsed: Duration,
        /// The alert threshold of the class.
        threshold: Duration,
    },
    /// Too many calls passed the limit that was learned for their statement: it is no longer believed.
    LimitWidened {
        /// The statement.
        statement: Fingerprint,
        /// The limit that was learned.
        from: Duration,
        /// The limit until enough has been learned again.
        to: Duration,
    },
    /// A failed attempt is repeated.
    Retried {
        /// Why.
        cause: RetryCause,
        /// The SQLSTATE, when the server said no.
        state: Option<SqlState>,
        /// How many attempts have failed, the first one included.
        attempt: u32,
        /// The pause before the next one.
        wait: Duration,
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one; nothing for a transaction.
        statement: Option<Fingerprint>,
    },
    /// In observe mode: a failed attempt would have been repeated. The fields of `Retried`.
    WouldRetry {
        /// Why.
        cause: RetryCause,
        /// The SQLSTATE, when the server said no.
        state: Option<SqlState>,
        /// How many attempts have failed; 1, since observing stops at the first.
        attempt: u32,
        /// The pause before the next one.
        wait: Duration,
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one; nothing for a transaction.
        statement: Option<Fingerprint>,
    },
    /// A call failed for a passing reason and was not repeated (any more).
    RetryGaveUp {
        /// Why not.
        reason: GaveUp,
        /// The SQLSTATE, when the server said no.
        state: Option<SqlState>,
        /// How many attempts have failed.
        attempts: u32,
        /// The class of the call.
        class: QueryClass,
        /// The statement, if the call was one; nothing for a transaction.
        statement: Option<Fingerprint>,
    },
    /// A lease has been out for longer than its class allows; told once for each lease.
    LeaseSuspect(Arc<Suspect>),
    /// A suspect lease came back.
    SuspectReturned {
        /// Where it was asked for.
        site: Option<&'static Location<'static>>,
        /// The statement that it was asked for, if the stack ran it.
        statement: Option<Fingerprint>,
        /// The class of the call.
        class: QueryClass,
        /// How long it was out in all.
        held: Duration,
    },
    /// A lease was taken back from its holder.
    LeaseRevoked(Arc<Suspect>),
    /// In observe mode: a lease would have been taken back.
    WouldRevoke(Arc<Suspect>),
    /// A task that holds a lease waited for another one of an exhausted pool.
    NestedAcquire {
        /// Where it asked for the other one.
        site: Option<&'static Location<'static>>,
        /// The statement that it asked for, if the stack runs it.
        statement: Option<Fingerprint>,
        /// Where it had asked for the one it holds.
        holds: Option<&'static Location<'static>>,
        /// Whether it was refused.
        refused: bool,
    },
    /// A replica gets no more reads.
    NodeBanned {
        /// The node, as `host:port`.
        node: Arc<str>,
        /// Why.
        reason: BanReason,
    },
    /// A replica gets reads (again).
    NodeServes {
        /// The node, as `host:port`.
        node: Arc<str>,
    },
    /// Writes go to another node from now on.
    PrimaryMoved {
        /// The node, as `host:port`.
        node: Arc<str>,
        /// Its timeline.
        timeline: u32,
    },
    /// The primary does not answer.
    PrimaryLost {
        /// The node, as `host:port`.
        node: Arc<str>,
    },
    /// The number of nodes that are known to take writes has changed: one when all is well, more in a split brain.
    WritableNodes {
        /// How many there are.
        nodes: u32,
    },
    /// More than one node takes writes: only the one of the highest timeline gets any.
    SplitBrain {
        /// How many nodes take writes.
        nodes: u32,
        /// The highest timeline.
        timeline: u32,
    },
    /// The number of leases that may be in use has changed.
    LimitChanged {
        /// What it was.
        from: u32,
        /// What it is.
        to: u32,
        /// Why.
        reason: LimitReason,
        /// False where it is only observed.
        enforced: bool,
    },
    /// A circuit breaker changed its state.
    BreakerChanged {
        /// From which state.
        from: BreakerState,
        /// To which one.
        to: BreakerState,
        /// Why it opened, the last time that it did.
        cause: BreakerCause,
        /// When it is probed next, where it is open.
        retry_after: Option<Duration>,
    },
    /// In observe mode: a circuit breaker would have opened.
    BreakerWouldOpen {
        /// Why.
        cause: BreakerCause,
    },
    /// A circuit breaker refused a call.
    BreakerRefused {
        /// In which state.
        state: BreakerState,
        /// The class of the call.
        class: QueryClass,
    },
    /// A probe of an endpoint has ended: of an open breaker, or of the monitor.
    Probed {
        /// Whether the endpoint answered as it should.
        ok: bool,
        /// How long it took.
        took: Duration,
        /// Whether it was an open breaker that asked.
        for_breaker: bool,
    },
    /// So many probes of the monitor have failed in a row that somebody should know.
    HealthAlert {
        /// How many.
        failures: u32,
        /// What the last one said.
        message: Arc<str>,
    },
    /// After an alert a probe of the monitor has succeeded.
    HealthRecovered {
        /// How many had failed.
        failures: u32,
        /// How long it had been since the first of them.
        after: Duration,
    },
    /// The endpoint is another one now, or the same one anew: connections of before are closed as they come back.
    EndpointMoved {
        /// The new epoch.
        epoch: u64,
        /// Leases of older epochs that are still out.
        still_out: u32,
    },
    /// A call was answered from the cache.
    CacheHit {
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// How old the answer was.
        age: Duration,
        /// Whether it was past its time.
        stale: bool,
    },
    /// A call was not answered from the cache and read for itself.
    CacheMiss {
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
    },
    /// A call was answered by another caller's read of the same.
    CacheCoalesced {
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// How long it waited.
        waited: Duration,
    },
    /// An answer was read for the cache.
    CacheFilled {
        /// The statement, if the call was one.
        statement: Option<Fingerprint>,
        /// How long the read took.
        took: Duration,
        /// What the answer weighs, in bytes.
        bytes: u64,
        /// Whether it was kept: not if it was too large, or outdated by a write in the meantime.
        kept: bool,
    },
    /// Answers were dropped from the cache.
    CacheInvalidated {
        /// Why.
        reason: CacheDrop,
        /// How many tables or tags; `None` when everything was dropped.
        what: Option<u32>,
    },
    /// The cache began to hear of other writers, or no longer does.
    CacheListening {
        /// Whether it does.
        live: bool,
    },
    /// The store that caches share is left alone for a while, or back.
    SharedTier {
        /// Whether it is left alone.
        away: bool,
    },
    /// The settings were swapped.
    Reloaded,
    /// The pool has closed.
    PoolClosed {
        /// Leases that were still out at the end of the drain limit.
        still_out: u32,
    },
}
