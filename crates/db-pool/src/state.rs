//! The pool's accounts: everything that the one lock guards. Plain functions, no waiting, no I/O.

use crate::{
    config::PoolConfig,
    conn::Conn,
    forecast::Forecast,
    governor,
    holders::{Caller, Entry, Holders, Standing},
    homes::{Home, Homes},
    lease::PoolLease,
    moves::Moves,
    queue::Queue,
    shares::{Present, Shares},
    stats::PoolStats,
};
use db_core::{AcquireError, AcquireFailure, CloseReason, ConnectFailure, Error, LeaseId, Priority};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// The most holders that an error names.
const HOLDERS_NAMED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// No lease is handed out any more; those out may still come back.
    Closed,
}

/// What a waiter gets.
pub(crate) type Grant = Result<PoolLease, Error>;

/// What a waiter brings along.
pub(crate) struct Ask {
    pub(crate) caller: Caller,
    pub(crate) home: Home,
    pub(crate) grant: oneshot::Sender<Grant>,
}

/// Those who have to be told that they get nothing, once the lock is released.
pub(crate) type Told = Vec<(Ask, AcquireError)>;

/// What a caller finds.
pub(crate) enum Checkout {
    /// A connection that was in use a moment ago.
    Ready(Box<Conn>),
    /// A connection that was idle long enough to be tested first.
    Test(Box<Conn>),
    /// Nothing idle, or it is not this caller's turn.
    None,
}

/// What becomes of a connection that comes back.
pub(crate) enum Checkin {
    /// Straight to the next waiter.
    Serve(Ask, Box<Conn>),
    /// Into the hot set.
    Kept,
    /// Out of the pool.
    Discard(Box<Conn>, CloseReason),
}

/// What the limit is judged by. Counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Leases that came back.
    pub(crate) completed: u64,
    /// Nanoseconds that they were held.
    pub(crate) held: u64,
    /// Leases that went straight to somebody who waited.
    pub(crate) handed: u64,
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Oldest first: the hot end is the back, so that an unneeded connection sinks and ages out.
    #[expect(clippy::vec_box, reason = "a connection moves between holders as a pointer")]
    pub(crate) idle: Vec<Box<Conn>>,
    pub(crate) queue: Queue<Ask>,
    pub(crate) holders: Holders,
    /// The last failed attempt to connect, until one succeeds.
    pub(crate) failure: Option<Arc<ConnectFailure>>,
    /// Leases of an older epoch are closed when they come back.
    pub(crate) epoch: u64,
    /// Which servers were met at the endpoint.
    pub(crate) moves: Moves,
    /// No connection is opened that nobody waits for.
    pub(crate) held: bool,
    /// Somebody has seen the server back: attempts that failed before say nothing any more.
    pub(crate) back: bool,
    /// Those of the lent places whose holders have not got their connection from the inner pool yet.
    pub(crate) lending: u32,
    pub(crate) stats: PoolStats,
    /// The most leases that may be in use: the target, within the room.
    pub(crate) limit: u32,
    /// What the policy wants.
    pub(crate) target: u32,
    /// Connections that somebody wants to be open for a while.
    pub(crate) warm: u32,
    /// The most connections that may be open.
    pub(crate) room: u32,
    pub(crate) forecast: Forecast,
    pub(crate) load: Load,
    pub(crate) shares: Shares,
    /// Leases in use, by priority.
    pub(crate) used: [u32; 4],
    pub(crate) present: Present,
    /// When each priority asked last.
    pub(crate) asked: [Instant; 4],
    /// Leases in use by tenant; only of tenants that have some.
    pub(crate) tenants: HashMap<u64, u32, foldhash::fast::FixedState>,
    pub(crate) tenant_ceiling: u32,
    /// The databases of those who have one of their own.
    pub(crate) homes: Homes,
}

impl State {
    pub(crate) fn new(config: &PoolConfig, now: Instant) -> Self {
        let mut state = Self {
            phase: Phase::Open,
            idle: Vec::new(),
            queue: Queue::new(now),
            holders: Holders::default(),
            failure: None,
            epoch: 0,
            moves: Moves::default(),
            held: false,
            back: false,
            lending: 0,
            stats: PoolStats::default(),
            limit: 0,
            target: config.max_connections,
            warm: 0,
            room: governor::START,
            forecast: Forecast::default(),
            load: Load::default(),
            shares: Shares::of(&config.priorities, 1, Present::default()),
            used: [0; 4],
            present: Present::default(),
            asked: [now; 4],
            tenants: HashMap::default(),
            tenant_ceiling: 1,
            homes: Homes::default(),
        };
        state.configure(config);
        state
    }

    /// Other settings. A limit that is found out while running stays what it is, within its new bounds.
    pub(crate) fn configure(&mut self, config: &PoolConfig) {
        let max = config.max_connections;
        if config.limit.mode.enforces() {
            let bounds = config.limit.min..=config.limit.absolute_max;
            let target = self.target.clamp(*bounds.start(), *bounds.end());
            self.resize(config, target, self.room.min(*bounds.end()));
        } else {
            self.resize(config, max, max);
        }
    }

    /// Another limit: floors and ceilings follow.
    pub(crate) fn resize(&mut self, config: &PoolConfig, target: u32, room: u32) {
        (self.target, self.room, self.limit) = (target, room, target.min(room));
        self.divide(config);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small number"
        )]
        let ceiling = (f64::from(self.limit) * config.tenant_share).ceil() as u32;
        self.tenant_ceiling = ceiling.max(1);
    }

    /// Floors follow the limit, and who is there.
    fn divide(&mut self, config: &PoolConfig) {
        self.shares = Shares::of(&config.priorities, self.limit, self.present);
    }

    /// The hottest connection of the database, unless it has outlived its time; those are moved to `ended`.
    pub(crate) fn checkout(
        &mut self,
        config: &PoolConfig,
        caller: Caller,
        home: &Home,
        now: Instant,
        ended: &mut Vec<(Box<Conn>, CloseReason)>,
    ) -> Checkout {
        if !self.present.has(caller.priority) {
            self.present.add(caller.priority);
            self.divide(config);
        }
        self.asked[caller.priority.index()] = now;
        if !self.admits(config, caller, home) {
            return Checkout::None;
        }
        while let Some(mut conn) = self.take_idle(home) {
            let reason = if conn.epoch != self.epoch {
                CloseReason::Epoch
            } else if conn.expired(now) {
                CloseReason::Lifetime
            } else {
                self.lend(&mut conn, caller, now, Duration::ZERO);
                return if conn.idle_for(now) > config.validate_after {
                    Checkout::Test(conn)
                } else {
                    Checkout::Ready(conn)
                };
            };
            self.forget(&conn, reason);
            ended.push((conn, reason));
        }
        Checkout::None
    }

    fn lend(&mut self, conn: &mut Conn, caller: Caller, now: Instant, charged: Duration) {
        self.stats.acquires += 1;
        self.stats.in_use += 1;
        conn.serial = self.stats.acquires;
        conn.leased = now;
        self.holders.take(conn, caller, charged);
        self.used[caller.priority.index()] += 1;
        if let Some(tenant) = caller.tenant {
            *self.tenants.entry(tenant).or_default() += 1;
        }
    }

    /// A lease ends. One that was written off is in no account any more. With `used` the time of its use is a
    /// measurement.
    pub(crate) fn end_lease(&mut self, conn: &Conn, used: Option<Instant>) -> Standing {
        let standing = self.holders.standing(conn);
        if standing != Standing::WrittenOff
            && let Some(entry) = self.holders.give_back(conn.slot)
        {
            self.release(&entry);
            if let (Standing::Held, Some(now)) = (standing, used) {
                let held = now.saturating_duration_since(entry.since);
                let caller = entry.caller;
                self.forecast.observe(caller.priority, held);
                self.load.completed += 1;
                self.load.held += u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
                // An idle connection to its own database was in nobody's way: who had it would wait for that for ever, while
                // others have their turns.
                let free = conn.home.is_some() && entry.charged.is_zero();
                if self.queue.len() > 0 && !free {
                    self.queue.charge(caller.priority, caller.flow(), held, entry.charged);
                }
            }
        }
        standing
    }

    /// Frees the place of a revoked lease, and says how old its connection got.
    pub(crate) fn write_off(&mut self, lease: LeaseId) -> Option<Duration> {
        let (entry, age) = self.holders.write_off(lease)?;
        self.release(&entry);
        Some(age)
    }

    fn release(&mut self, entry: &Entry) {
        self.stats.in_use -= 1;
        self.used[entry.caller.priority.index()] -= 1;
        if let Some(tenant) = entry.caller.tenant
            && let Some(count) = self.tenants.get_mut(&tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }

    /// Whether a caller would have to wait, and no connection can be opened for it.
    pub(crate) fn is_saturated(&self) -> bool {
        self.idle.is_empty() && self.open() >= self.room
    }

    /// A connection comes back clean, or arrives. Those who are shed on this occasion are added to `told`.
    pub(crate) fn checkin(
        &mut self,
        mut conn: Box<Conn>,
        config: &PoolConfig,
        now: Instant,
        told: &mut Told,
    ) -> Checkin {
        let reason = if self.phase == Phase::Closed {
            CloseReason::Closed
        } else if conn.epoch != self.epoch {
            CloseReason::Epoch
        } else if conn.expired(now) {
            CloseReason::Lifetime
        } else if self.open() > self.room || self.belongs_elsewhere(&conn, config, now) {
            CloseReason::Shrunk
        } else if let Some((ticket, waiter)) = self.next(config, &conn.home, now, told) {
            let charged = self.forecast.mean(ticket.priority);
            self.load.handed += 1;
            self.lend(&mut conn, waiter.payload.caller, now, charged);
            return Checkin::Serve(waiter.payload, conn);
        } else {
            self.idle.push(conn);
            return Checkin::Kept;
        };
        self.forget(&conn, reason);
        Checkin::Discard(conn, reason)
    }

    /// Priorities that have not asked for a while hold nothing back any more. Whether any went.
    pub(crate) fn forget_absent(&mut self, config: &PoolConfig, now: Instant) -> bool {
        let before = self.present;
        for priority in Priority::ALL {
            let index = priority.index();
            let idle = self.used[index] == 0 && self.queue.waiting(priority) == 0;
            if idle && now.saturating_duration_since(self.asked[index]) > config.priorities.reserve_for {
                self.present.remove(priority);
            }
        }
        let changed = before != self.present;
        if changed {
            self.divide(config);
        }
        changed
    }

    /// A connection leaves the pool.
    pub(crate) fn forget(&mut self, conn: &Conn, reason: CloseReason) {
        self.holders.close(conn.slot);
        self.stats.size -= 1;
        self.stats.closed[reason.index()] += 1;
    }

    /// All that counts against the budget: open, being opened, lent.
    pub(crate) fn open(&self) -> u32 {
        self.stats.size + self.stats.dialing + self.stats.lent
    }

    /// How many connections should be opened now.
    pub(crate) fn wanted(&self, config: &PoolConfig) -> u32 {
        if self.phase == Phase::Closed {
            return 0;
        }
        let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let demand = waiting
            .max(
                if self.held {
                    0
                } else {
                    config.min_connections.max(self.warm)
                }
                .saturating_sub(self.stats.size),
            )
            .saturating_sub(self.stats.dialing);
        // More than may be in use would be of no use.
        demand.min(self.limit.saturating_sub(self.open()))
    }

    /// The error for a caller that got nothing, with all that explains it.
    pub(crate) fn explain(&self, failure: AcquireFailure, waited: Duration, now: Instant) -> AcquireError {
        let mut error = AcquireError::new(failure, waited);
        error.size = self.stats.size;
        error.max = self.room;
        error.waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        // A pool that could not grow is not exhausted: the reason is why it could not.
        if failure == AcquireFailure::TimedOut
            && self.stats.size + self.stats.lent < self.room
            && let Some(cause) = &self.failure
        {
            error.failure = cause.failure;
            error.cause = Some(cause.clone());
        }
        // In an overload many are sent away in a moment: that must be cheap, and who holds the leases is not the reason.
        if !matches!(failure, AcquireFailure::Shed(_)) {
            error.holders = self.holders.longest(now, HOLDERS_NAMED);
        }
        error
    }

    pub(crate) fn snapshot(&self) -> PoolStats {
        let mut stats = self.stats.clone();
        stats.idle = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        stats.waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        stats.max = self.room;
        stats.limit = self.limit;
        stats.standing = self.queue.stands();
        // A spare that is in use at the moment is not there to be lent.
        let free = stats
            .limit
            .saturating_sub(stats.in_use + stats.quarantined + stats.lent);
        stats.unlent_floors = self.shares.unlent(&self.used, self.present).min(free);
        for priority in Priority::ALL {
            let index = priority.index();
            let of = &mut stats.priorities[index];
            of.in_use = self.used[index];
            of.waiting = u32::try_from(self.queue.waiting(priority)).unwrap_or(u32::MAX);
            of.floor = self.shares.floors[index];
            of.ceiling = self.shares.ceilings[index];
            of.spare = self.shares.spares[index];
        }
        stats
    }
}
