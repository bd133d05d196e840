//! What the pool's handles, leases and tasks share, and the moves between them.

use crate::{
    config::{PoolConfig, SessionConfig},
    conn::Conn,
    control::Control,
    dial::Endpoint,
    holders::{Caller, Standing},
    lease::PoolLease,
    plans::Plans,
    quarantine::{self, Left},
    queue::Grant,
    state::{Checkin, Checkout, Phase, State},
};
use arc_swap::ArcSwap;
use db_core::{AcquireError, AcquireFailure, CloseReason, ConnectFailure, Error, Event, Observers, config::Mode};
use parking_lot::Mutex;
use sqlx::{Connection, PgPool};
use std::{
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

/// How long saying goodbye to a server may take.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) struct Shared {
    pub(crate) config: ArcSwap<PoolConfig>,
    pub(crate) session: ArcSwap<SessionConfig>,
    pub(crate) endpoint: ArcSwap<Endpoint>,
    pub(crate) state: Mutex<State>,
    pub(crate) observers: Observers,
    /// Wakes the keeper: somebody waits, or a connection has gone.
    pub(crate) demand: Notify,
    /// Wakes those who wait for the pool to be empty.
    pub(crate) emptied: Notify,
    pub(crate) control: Control,
    pub(crate) runtime: OnceLock<Handle>,
    pub(crate) inner: OnceLock<PgPool>,
    pub(crate) plans: Plans,
    /// Time spent waiting, in nanoseconds: counted without the lock, after the wait.
    pub(crate) waited_nanos: AtomicU64,
}

/// What a caller gets at once.
pub(crate) enum First {
    Lease(PoolLease),
    Test(PoolLease),
    Wait(u64, oneshot::Receiver<Grant>),
    /// Nothing idle, and the caller did not want to wait.
    Nothing,
}

impl Shared {
    /// The hottest lease, or a place in the queue.
    pub(crate) fn first(self: &Arc<Self>, caller: Caller, wait: bool) -> Result<First, Error> {
        let config = self.config.load();
        let now = Instant::now();
        let mut ended = Vec::new();
        let first = {
            let mut state = self.state.lock();
            if state.phase == Phase::Closed {
                Err(state.explain(AcquireFailure::Closed, Duration::ZERO, &config, now))
            } else {
                match state.checkout(&config, caller, now, &mut ended) {
                    Checkout::Ready(conn) => Ok((First::Lease(PoolLease::new(self, conn)), false)),
                    Checkout::Test(conn) => Ok((First::Test(PoolLease::new(self, conn)), false)),
                    Checkout::None if wait => {
                        // The keeper is woken only where it could do something.
                        let grow = state.open() < config.max_connections;
                        self.enqueue(&mut state, &config, caller, now)
                            .map(|place| (place, grow))
                    }
                    Checkout::None => Ok((First::Nothing, false)),
                }
            }
        };
        for (conn, reason) in ended {
            self.part(conn, reason);
        }
        if let Ok((_, true)) = first {
            self.demand.notify_one();
        }
        first
            .map(|(first, _)| first)
            .map_err(|error| self.failed(caller, error))
    }

    fn enqueue(
        &self,
        state: &mut State,
        config: &PoolConfig,
        caller: Caller,
        now: Instant,
    ) -> Result<First, AcquireError> {
        if state.queue.len() >= config.max_waiting as usize {
            match config.admission {
                Mode::Enforce => {
                    state.stats.refused += 1;
                    return Err(state.explain(AcquireFailure::QueueFull, Duration::ZERO, config, now));
                }
                Mode::Observe => {
                    state.stats.refused += 1;
                    self.observers.tell(|| Event::WouldRefuse {
                        failure: AcquireFailure::QueueFull,
                        priority: caller.priority,
                    });
                }
                Mode::Off => {}
            }
        }
        let (grant, granted) = oneshot::channel();
        state.stats.waits += 1;
        Ok(First::Wait(state.queue.push(caller, grant), granted))
    }

    /// Tells the observers about a caller that got nothing.
    pub(crate) fn failed(&self, caller: Caller, error: AcquireError) -> Error {
        self.observers.tell(|| Event::AcquireFailed {
            failure: error.failure,
            waited: error.waited,
            site: caller.site,
            priority: caller.priority,
        });
        error.into()
    }

    /// A clean lease comes back. Never waits.
    pub(crate) fn checkin(self: &Arc<Self>, mut conn: Box<Conn>, now: Instant) {
        conn.last_used = now;
        let standing = self.state.lock().end_lease(&conn);
        match standing {
            Standing::Held => self.offer(conn, now),
            Standing::Revoked => self.forget(conn, CloseReason::Revoked),
            Standing::WrittenOff => {}
        }
    }

    /// A connection that nobody holds: to the next waiter, the hot set, or out.
    pub(crate) fn offer(self: &Arc<Self>, conn: Box<Conn>, now: Instant) {
        let next = {
            let config = self.config.load();
            self.state.lock().checkin(conn, &config, now)
        };
        match next {
            Checkin::Kept => {}
            // A waiter that has just left drops the lease, which comes back here for the next one.
            Checkin::Serve(waiter, conn) => drop(waiter.grant.send(Ok(PoolLease::new(self, conn)))),
            Checkin::Discard(conn, reason) => {
                self.part(conn, reason);
                self.demand.notify_one();
            }
        }
    }

    /// A lease that must not be used again.
    pub(crate) fn discard(&self, conn: Box<Conn>, reason: CloseReason) {
        let standing = self.state.lock().end_lease(&conn);
        match standing {
            Standing::Held => self.forget(conn, reason),
            Standing::Revoked => self.forget(conn, CloseReason::Revoked),
            Standing::WrittenOff => {}
        }
    }

    fn forget(&self, conn: Box<Conn>, reason: CloseReason) {
        self.state.lock().forget(&conn, reason);
        self.part(conn, reason);
        self.demand.notify_one();
    }

    /// Lets a connection go that the accounts have forgotten: politely where the wire is whole and a runtime is there.
    #[expect(clippy::boxed_local, reason = "the accounts hand out boxes")]
    pub(crate) fn part(&self, conn: Box<Conn>, reason: CloseReason) {
        self.emptied.notify_waiters();
        self.observers.tell(|| Event::Closed {
            reason,
            age: conn.born.elapsed(),
        });
        if matches!(
            reason,
            CloseReason::Broken | CloseReason::Invalid | CloseReason::Quarantine | CloseReason::Revoked
        ) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(GOODBYE, conn.pg.close()));
        }
    }

    /// A lease with work in flight or unknown session state: made clean by a task of its own.
    pub(crate) fn quarantine(self: &Arc<Self>, conn: Box<Conn>, left: Left) {
        let runtime = Handle::try_current().ok().or_else(|| self.runtime.get().cloned());
        let Some(runtime) = runtime else {
            return self.discard(conn, CloseReason::Quarantine);
        };
        {
            let mut state = self.state.lock();
            if state.holders.standing(&conn) != Standing::Held {
                drop(state);
                return self.discard(conn, CloseReason::Revoked);
            }
            state.end_lease(&conn);
            state.stats.quarantined += 1;
        }
        // A runtime that is shutting down drops the task, and with it the patient, which puts the accounts right.
        let patient = quarantine::Patient::new(self.clone(), conn);
        drop(runtime.spawn(patient.recover(left)));
    }

    /// A connection was opened.
    pub(crate) fn connected(self: &Arc<Self>, mut conn: Box<Conn>, took: Duration) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            conn.slot = state.holders.open(conn.backend.clone(), conn.born);
            conn.opened_in = took;
            state.failure = None;
            state.stats.dialing -= 1;
            state.stats.size += 1;
            state.stats.connects += 1;
        }
        self.observers.tell(|| Event::Connected { took });
        self.offer(conn, now);
    }

    /// An attempt to open one failed. Those who wait are told at once where waiting can't help.
    pub(crate) fn connect_failed(&self, failure: Arc<ConnectFailure>, retry_in: Option<Duration>) {
        let config = self.config.load();
        let now = Instant::now();
        let told = {
            let mut state = self.state.lock();
            state.stats.dialing -= 1;
            state.stats.connect_failures += 1;
            state.failure = Some(failure.clone());
            let hopeless = !failure.is_transient() && state.stats.size == 0;
            if hopeless {
                state.queue.drain()
            } else {
                Default::default()
            }
            .into_iter()
            .map(|waiter| {
                let mut error = state.explain(failure.failure, Duration::ZERO, &config, now);
                error.cause = Some(failure.clone());
                (waiter, error)
            })
            .collect::<Vec<_>>()
        };
        self.observers.tell(|| Event::ConnectFailed {
            failure: failure.failure,
            message: failure.source.to_string().into(),
            retry_in,
        });
        for (waiter, error) in told {
            let caller = waiter.caller;
            drop(waiter.grant.send(Err(self.failed(caller, error))));
        }
    }
}
