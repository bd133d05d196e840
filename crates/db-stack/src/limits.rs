//! The limits of the statements of one transaction, and of all of it.

use crate::{config::TransactionConfig, db::Inner, node::NodeStack, tagging::Tagging};
use db_cache::Cache;
use db_core::{Call, Error, Event, LimitOrigin, NodeId, Observers, Result, Statement, StatementFacts};
use db_health::Breaker;
use db_metrics::ObserveLayer;
use db_replica::{Place, Routed};
use db_timeout::TimeoutLayer;
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What the caller's handle said, for each statement of a transaction: its class and timeout count for each, its
/// deadline for all together. Beside that, the limit of the transaction itself.
pub(crate) struct Limits {
    observe: ObserveLayer,
    tagging: Tagging,
    timeouts: TimeoutLayer,
    observers: Observers,
    breaker: Breaker,
    cache: Cache,
    call: Call,
    replicas: Routed<NodeStack>,
    /// Where it runs when that is a replica.
    replica: Option<NodeId>,
    /// Its share of the primary, in place of replicas.
    _place: Option<Place>,
    whole: Option<Whole>,
}

/// The limit from BEGIN to the end of COMMIT.
#[derive(Clone, Copy, Debug)]
struct Whole {
    began: Instant,
    length: Duration,
    enforced: bool,
}

impl Limits {
    pub(crate) fn new(inner: &Arc<Inner>, call: Call) -> Self {
        Self {
            observe: inner.telemetry.observe.clone(),
            tagging: inner.telemetry.tagging.clone(),
            timeouts: inner.timeouts.clone(),
            observers: inner.observers.clone(),
            breaker: inner.breaker.clone(),
            cache: inner.cached.cache.clone(),
            call,
            replicas: inner.replicas.clone(),
            replica: None,
            _place: None,
            whole: None,
        }
    }

    /// The statement as it is sent.
    pub(crate) fn sent(&self, statement: Statement) -> Statement {
        self.tagging.on(statement)
    }

    /// The transaction runs on a replica.
    pub(crate) fn on_replica(mut self, node: NodeId) -> Self {
        self.replica = Some(node);
        self
    }

    /// The transaction runs on the primary in place of replicas.
    pub(crate) fn in_place(mut self, place: Place) -> Self {
        self._place = Some(place);
        self
    }

    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// BEGIN is about to be sent: from here on the transaction's own limit runs. One of the caller's is not only observed.
    pub(crate) fn begin_transaction(&mut self, config: &TransactionConfig, own: Option<Duration>) {
        let whole = Whole {
            began: Instant::now(),
            length: own.unwrap_or(config.timeout),
            enforced: own.is_some() || config.mode.enforces(),
        };
        if own.is_none() && config.mode.is_off() {
            return;
        }
        self.whole = Some(whole);
        if let Some(until) = whole.until() {
            self.call = self.call.clone().with_deadline(until);
        }
    }

    /// The instant at which the transaction has to be over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.call.deadline
    }

    /// What is to be told of the transaction's writes.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Runs one step under its limit, and counts for the breaker how it ends. Past the limit the step is dropped.
    pub(crate) async fn around<T>(
        &self,
        statement: Option<&Arc<StatementFacts>>,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut call = self.call.clone();
        call.statement = statement.map(|facts| facts.fingerprint());
        let limited = async { self.told_as_whole(self.timeouts.around(&call, step).await) };
        let out = self.observe.around(&call, statement, limited).await;
        if self.replica.is_none() {
            self.breaker.note(&out);
            if let Err(error) = &out {
                self.replicas.primary_failed(error).await;
            }
        }
        out
    }

    /// A step that ran into the transaction's own limit says so.
    fn told_as_whole<T>(&self, out: Result<T>) -> Result<T> {
        match (out, self.whole) {
            (Err(Error::Timeout(mut timeout)), Some(whole))
                if timeout.origin == LimitOrigin::Deadline && whole.until() == self.call.deadline =>
            {
                timeout.origin = LimitOrigin::Transaction;
                timeout.limit = whole.length;
                timeout.elapsed = whole.began.elapsed();
                Err(Error::Timeout(timeout))
            }
            (out, _) => out,
        }
    }

    /// The transaction is over: tells whether it would have been ended.
    pub(crate) fn end_transaction(&self) {
        let Some(whole) = self.whole.filter(|whole| !whole.enforced) else {
            return;
        };
        let elapsed = whole.began.elapsed();
        if elapsed > whole.length {
            self.observers.tell(|| Event::WouldTimeOut {
                class: self.call.class,
                statement: None,
                site: self.call.site,
                elapsed,
                limit: whole.length,
                origin: LimitOrigin::Transaction,
            });
        }
    }
}

/// The transaction is over, however it ended: its session has seen what it saw.
impl Drop for Limits {
    fn drop(&mut self) {
        if let Some(session) = &self.call.session {
            match self.replica {
                Some(node) => session.saw_replica(node, Instant::now()),
                None => session.saw_primary(Instant::now(), true),
            }
        }
    }
}

impl Whole {
    fn until(self) -> Option<Instant> {
        self.began.checked_add(self.length).filter(|_| self.enforced)
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("class", &self.call.class)
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}
