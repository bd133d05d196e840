//! What the pool's handles, leases and tasks share, and the moves between them.

use crate::{
    admission::Refusal,
    config::{PoolConfig, SessionConfig},
    conn::Conn,
    control::Control,
    dial::Endpoint,
    holders::{Caller, Standing},
    home,
    homes::Home,
    lease::PoolLease,
    plans::Plans,
    quarantine::{self, Left},
    queue::Ticket,
    state::{Ask, Checkin, Checkout, Grant, Phase, State, Told},
    statements::Statements,
};
use arc_swap::ArcSwap;
use db_core::{AcquireError, AcquireFailure, CloseReason, ConnectFailure, Error, Event, Observers};
use parking_lot::Mutex;
use sqlx::{Connection, PgPool};
use std::{
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
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
    /// The epoch, for those who want to be told.
    pub(crate) epochs: watch::Sender<u64>,
    /// One reconnect at a time.
    pub(crate) reconnecting: tokio::sync::Mutex<()>,
    /// Where the tasks of the pool run.
    pub(crate) home: home::Home,
    pub(crate) inner: OnceLock<PgPool>,
    pub(crate) plans: Plans,
    pub(crate) statements: Arc<Statements>,
    /// Time spent waiting, in nanoseconds: counted without the lock, after the wait.
    pub(crate) waited_nanos: AtomicU64,
}

/// What a caller gets at once.
pub(crate) enum First {
    Lease(PoolLease),
    Test(PoolLease),
    Wait(Ticket, oneshot::Receiver<Grant>),
    /// Nothing idle, and the caller did not want to wait.
    Nothing,
}

impl Shared {
    /// The hottest lease, or a place in the queue.
    pub(crate) fn first(
        self: &Arc<Self>,
        caller: Caller,
        home: &Home,
        deadline: Option<Instant>,
        wait: bool,
    ) -> Result<First, Error> {
        let config = self.config.load();
        let now = Instant::now();
        let (mut ended, mut told) = (Vec::new(), Told::new());
        let first = {
            let mut state = self.state.lock();
            if state.phase == Phase::Closed {
                Err(state.explain(AcquireFailure::Closed, Duration::ZERO, now))
            } else {
                match state.checkout(&config, caller, home, now, &mut ended) {
                    Checkout::Ready(conn) => Ok((First::Lease(PoolLease::new(self, conn)), false)),
                    Checkout::Test(conn) => Ok((First::Test(PoolLease::new(self, conn)), false)),
                    Checkout::None if wait => {
                        // The keeper is woken only where it could do something.
                        let grow = state.open() < state.room;
                        let (grant, granted) = oneshot::channel();
                        let home = home.clone();
                        let place = self.enqueue(
                            &mut state,
                            &config,
                            Ask { caller, home, grant },
                            deadline,
                            now,
                            &mut told,
                        );
                        // Or where an idle one of another database is in the way.
                        let grow = grow || (state.homes.any() && !state.idle.is_empty());
                        place.map(|ticket| (First::Wait(ticket, granted), grow))
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
        self.send_away(told);
        first
            .map(|(first, _)| first)
            .map_err(|error| self.failed(caller, error))
    }

    fn enqueue(
        &self,
        state: &mut State,
        config: &PoolConfig,
        ask: Ask,
        deadline: Option<Instant>,
        now: Instant,
        told: &mut Told,
    ) -> Result<Ticket, AcquireError> {
        let caller = ask.caller;
        match state.enqueue(ask, deadline, config, now, told) {
            Ok(ticket) => Ok(ticket),
            Err(Refusal::Refused(error)) => Err(*error),
            Err(Refusal::WouldRefuse(failure, ticket)) => {
                self.observers.tell(|| Event::WouldRefuse {
                    failure,
                    priority: caller.priority,
                });
                Ok(ticket)
            }
        }
    }

    /// Answers those who get nothing.
    pub(crate) fn send_away(&self, told: Told) {
        for (ask, error) in told {
            drop(ask.grant.send(Err(self.failed(ask.caller, error))));
        }
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
        conn.guest.leave();
        let mut told = Told::new();
        let next = {
            let config = self.config.load();
            let mut state = self.state.lock();
            match state.end_lease(&conn, Some(now)) {
                Standing::Held => state.checkin(conn, &config, now, &mut told),
                Standing::Revoked => {
                    state.forget(&conn, CloseReason::Revoked);
                    Checkin::Discard(conn, CloseReason::Revoked)
                }
                Standing::WrittenOff => return,
            }
        };
        self.go_on(next, told);
    }

    /// A connection that nobody holds: to the next waiter, the hot set, or out. Whether it went somewhere.
    pub(crate) fn offer(self: &Arc<Self>, conn: Box<Conn>, now: Instant) -> bool {
        let mut told = Told::new();
        let next = {
            let config = self.config.load();
            self.state.lock().checkin(conn, &config, now, &mut told)
        };
        let went = !matches!(next, Checkin::Kept);
        self.go_on(next, told);
        went
    }

    fn go_on(self: &Arc<Self>, next: Checkin, told: Told) {
        self.send_away(told);
        match next {
            Checkin::Kept => {}
            // A waiter that has just left drops the lease, which comes back here for the next one.
            Checkin::Serve(ask, conn) => drop(ask.grant.send(Ok(PoolLease::new(self, conn)))),
            Checkin::Discard(conn, reason) => {
                self.part(conn, reason);
                self.demand.notify_one();
            }
        }
    }

    /// Serves those who wait from what is idle: a limit was raised, a floor is no longer held back, or those whom it was
    /// held for have gone.
    pub(crate) fn serve_idle(self: &Arc<Self>) {
        let now = Instant::now();
        let mut homes = Vec::new();
        {
            let state = self.state.lock();
            if state.idle.is_empty() {
                return;
            }
            for (_, flow, _) in state.queue.flows() {
                let home = state.homes.of(flow);
                if !homes.contains(&home) {
                    homes.push(home);
                }
            }
        }
        // Each database's own: one of another that nobody waits for must not be in the way.
        for home in homes {
            loop {
                let conn = self.state.lock().take_idle(&home);
                if !conn.is_some_and(|conn| self.offer(conn, now)) {
                    break;
                }
            }
        }
    }

    /// A lease that must not be used again.
    pub(crate) fn discard(&self, conn: Box<Conn>, reason: CloseReason) {
        let standing = self.state.lock().end_lease(&conn, None);
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
    #[allow(clippy::boxed_local, reason = "the accounts hand out boxes")]
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
        let runtime = Handle::try_current().ok().or_else(|| self.home.runtime());
        let Some(runtime) = runtime else {
            return self.discard(conn, CloseReason::Quarantine);
        };
        {
            let mut state = self.state.lock();
            if state.holders.standing(&conn) != Standing::Held {
                drop(state);
                return self.discard(conn, CloseReason::Revoked);
            }
            state.end_lease(&conn, None);
            state.stats.quarantined += 1;
        }
        // A runtime that is shutting down drops the task, and with it the patient, which puts the accounts right.
        let patient = quarantine::Patient::new(self.clone(), conn);
        drop(runtime.spawn(patient.recover(left)));
    }

    /// A connection was opened.
    pub(crate) fn connected(self: &Arc<Self>, mut conn: Box<Conn>, took: Duration) {
        let now = Instant::now();
        let moved = {
            let mut state = self.state.lock();
            conn.slot = state.holders.open(conn.backend.clone(), conn.born);
            conn.opened_in = took;
            state.failure = None;
            state.stats.dialing -= 1;
            state.stats.size += 1;
            state.stats.connects += 1;
            state.arrive(&mut conn)
        };
        if let Some(moved) = moved {
            self.moved(moved);
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
            let State { queue, homes, .. } = &mut *state;
            let waiters = if hopeless {
                // Those of other databases have a chance of their own.
                queue.take_flows(|flow| homes.is_at(flow, &None), now)
            } else {
                Vec::new()
            };
            waiters
                .into_iter()
                .map(|waiter| {
                    let mut error = state.explain(failure.failure, Duration::ZERO, now);
                    error.cause = Some(failure.clone());
                    (waiter.payload, error)
                })
                .collect::<Told>()
        };
        if failure.failure == AcquireFailure::TooManyConnections {
            self.no_room(&config);
        }
        self.observers.tell(|| Event::ConnectFailed {
            failure: failure.failure,
            message: failure.source.to_string().into(),
            retry_in,
        });
        self.send_away(told);
    }

    /// The server refuses a tenant's database: that is no fault of the server's, and of no other caller.
    pub(crate) fn home_refused(&self, home: &Home, failure: Arc<ConnectFailure>) {
        let told = self.state.lock().refuse(home, &failure, Instant::now());
        self.observers.tell(|| Event::ConnectFailed {
            failure: AcquireFailure::NoDatabase,
            message: failure.source.to_string().into(),
            retry_in: None,
        });
        self.send_away(told);
    }
}
