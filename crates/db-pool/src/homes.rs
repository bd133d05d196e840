//! One budget for several databases of a server: whom the next connection is opened for, and which one goes for it.
//!
//! A connection belongs to one database for its life. Turns are taken as everywhere; a connection of the wrong database
//! is closed for whoever is next only when nothing else can serve him, and serves its own for a while first.

use crate::{
    config::PoolConfig,
    conn::Conn,
    queue::{Queue, Turn},
    state::{Ask, State, Told},
};
use db_core::{AcquireFailure, CloseReason, ConnectFailure, config::Mode};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// The database that a connection is for; `None` is the endpoint's own.
pub(crate) type Home = Option<Arc<str>>;

/// For so long a connection serves those of its database before it goes for others whose turn it is: opening one takes
/// about a tenth of it.
const SLICE: Duration = Duration::from_millis(100);
/// Flows whose database is remembered beside those that wait.
const REMEMBERED: usize = 1024;

/// The databases of the flows that wait, or have waited.
#[derive(Default)]
pub(crate) struct Homes(HashMap<u64, Arc<str>, foldhash::fast::FixedState>);

impl Homes {
    /// Whether any flow has a database of its own.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether the flow's callers want connections of this database.
    pub(crate) fn is_at(&self, flow: u64, home: &Home) -> bool {
        !self.any() && home.is_none() || self.0.get(&flow) == home.as_ref()
    }

    /// The database of the flow's callers.
    pub(crate) fn of(&self, flow: u64) -> Home {
        self.0.get(&flow).cloned()
    }

    /// A caller of the flow waits.
    pub(crate) fn note<T>(&mut self, flow: u64, home: &Home, queue: &Queue<T>) {
        let Some(home) = home else { return };
        if self.0.len() >= REMEMBERED + queue.len() {
            let waiting: HashSet<u64> = queue.flows().map(|(_, flow, _)| flow).collect();
            self.0.retain(|flow, _| waiting.contains(flow));
        }
        self.0.insert(flow, home.clone());
    }
}

impl State {
    /// Asks the queue, telling it about a free place. `ours` says which flows count.
    pub(crate) fn ask<R>(
        &mut self,
        config: &PoolConfig,
        now: Instant,
        ours: impl Fn(&Homes, u64) -> bool,
        ask: impl FnOnce(&mut Queue<Ask>, &Turn<'_>, &crate::forecast::Forecast) -> R,
    ) -> R {
        let free = self.free();
        let Self {
            queue,
            forecast,
            shares,
            used,
            present,
            tenants,
            tenant_ceiling,
            homes,
            ..
        } = self;
        if !config.admission.enforces() {
            let turn = Turn {
                now,
                room: &|_| true,
                room_if_starving: &|_| true,
                below_ceiling: &|_| true,
                may: &|flow| ours(homes, flow),
                ageing: Duration::MAX,
            };
            return ask(queue, &turn, forecast);
        }
        let turn = Turn {
            now,
            room: &|priority| free > shares.held_back(priority, used, *present),
            room_if_starving: &|priority| free > shares.held_back_from_starving(priority, used, *present),
            below_ceiling: &|priority| used[priority.index()] < shares.ceilings[priority.index()],
            may: &|flow| ours(homes, flow) && tenants.get(&flow).is_none_or(|used| *used < *tenant_ceiling),
            ageing: config.priorities.ageing,
        };
        ask(queue, &turn, forecast)
    }

    /// The hottest idle connection of this database.
    pub(crate) fn take_idle(&mut self, home: &Home) -> Option<Box<Conn>> {
        if self.idle.last()?.home == *home {
            return self.idle.pop();
        }
        let at = self.idle.iter().rposition(|conn| conn.home == *home)?;
        Some(self.idle.remove(at))
    }

    /// Whether this connection, which nobody holds, has to go so that one of another database can be opened.
    pub(crate) fn belongs_elsewhere(&mut self, conn: &Conn, config: &PoolConfig, now: Instant) -> bool {
        if self.queue.len() == 0 || !(self.homes.any() || conn.home.is_some()) {
            return false;
        }
        // As long as there is a place, this one is in nobody's way: they go one by one, as others can be opened.
        if self.open() < self.limit {
            return false;
        }
        let next = self.ask(config, now, |_, _| true, |queue, turn, _| queue.peek(turn));
        let Some(next) = next.filter(|flow| !self.homes.is_at(*flow, &conn.home)) else {
            return false;
        };
        let its_own = self.ask(
            config,
            now,
            |homes, flow| homes.is_at(flow, &conn.home),
            |queue, turn, _| queue.peek(turn).is_some(),
        );
        if its_own && now.saturating_duration_since(conn.born) < SLICE {
            return false;
        }
        // Those whom nothing that is being opened will serve.
        let coming = self.stats.dialing as usize;
        let mut others = 0;
        for (_, flow, waiting) in self.queue.flows() {
            if flow == next || !self.homes.is_at(flow, &conn.home) {
                others += waiting;
            }
            if others > coming {
                return true;
            }
        }
        false
    }

    /// The databases that connections are to be opened for, at most `most`, beside those `under_way`; and idle ones of
    /// others that go for them.
    #[expect(clippy::vec_box, reason = "a connection moves between holders as a pointer")]
    pub(crate) fn open_for(
        &mut self,
        config: &PoolConfig,
        under_way: &[Home],
        most: u32,
    ) -> (Vec<Home>, Vec<Box<Conn>>) {
        let mut needs = self.needs(config, under_way);
        let mut places = self.limit.saturating_sub(self.open());
        let (mut opened, mut gone) = (Vec::new(), Vec::new());
        // By turns, one for each at a time.
        while needs.iter().any(|need| need.1 > 0) {
            for at in 0..needs.len() {
                if needs[at].1 == 0 {
                    continue;
                }
                if opened.len() >= most as usize {
                    return (opened, gone);
                }
                if places > 0 {
                    places -= 1;
                } else {
                    let wanted = |conn: &Conn| needs.iter().any(|(home, _)| *home == conn.home);
                    let Some(idle) = self.idle.iter().position(|conn| !wanted(conn)) else {
                        return (opened, gone);
                    };
                    let conn = self.idle.remove(idle);
                    self.forget(&conn, CloseReason::Shrunk);
                    gone.push(conn);
                }
                needs[at].1 -= 1;
                opened.push(needs[at].0.clone());
            }
        }
        let least = config.min_connections.max(self.warm);
        let short = if self.held {
            0
        } else {
            least.saturating_sub(self.stats.size)
        };
        let coming = u32::try_from(under_way.len() + opened.len()).unwrap_or(u32::MAX);
        let fill = short.saturating_sub(coming).min(places);
        for _ in 0..fill.min(most.saturating_sub(u32::try_from(opened.len()).unwrap_or(u32::MAX))) {
            opened.push(None);
        }
        (opened, gone)
    }

    /// How many connections those who wait lack, by database, in the order of their turns. A database whose callers wait
    /// is named even where they lack none: its idle connections are theirs.
    fn needs(&self, config: &PoolConfig, under_way: &[Home]) -> Vec<(Home, usize)> {
        let enforces = config.admission.enforces();
        let mut needs: Vec<(Home, usize)> = Vec::new();
        for (priority, flow, waiting) in self.queue.flows() {
            let mut wants = waiting;
            if enforces {
                if !self.room_for(priority) {
                    continue;
                }
                let used = self.tenants.get(&flow).copied().unwrap_or_default();
                if self.homes.of(flow).is_some() {
                    wants = wants.min(self.tenant_ceiling.saturating_sub(used) as usize);
                }
            }
            if wants == 0 {
                continue;
            }
            let home = self.homes.of(flow);
            match needs.iter_mut().find(|(known, _)| *known == home) {
                Some(need) => need.1 += wants,
                None => needs.push((home, wants)),
            }
        }
        for (home, need) in &mut needs {
            let coming = under_way.iter().filter(|other| *other == home).count();
            let idle = self.idle.iter().filter(|conn| conn.home == *home).count();
            *need = need.saturating_sub(coming + idle);
        }
        needs
    }

    /// The server refuses this database: those who wait for it are told, and nobody else is.
    pub(crate) fn refuse(&mut self, home: &Home, failure: &Arc<ConnectFailure>, now: Instant) -> Told {
        self.stats.dialing -= 1;
        self.stats.connect_failures += 1;
        let Self { queue, homes, .. } = self;
        let waiters = queue.take_flows(|flow| homes.is_at(flow, home), now);
        let mut told = Told::new();
        for waiter in waiters {
            let waited = now.saturating_duration_since(waiter.since);
            let mut error = self.explain(AcquireFailure::NoDatabase, waited, now);
            error.cause = Some(failure.clone());
            told.push((waiter.payload, error));
        }
        told
    }

    /// Where a caller waits: by its priority and flow, or all in one line.
    pub(crate) fn line(&self, config: &PoolConfig, ask: &Ask) -> (db_core::Priority, u64) {
        match (config.admission, &ask.home) {
            (Mode::Enforce, _) => (ask.caller.priority, ask.caller.flow()),
            (_, Some(_)) => (db_core::Priority::Normal, ask.caller.flow()),
            (_, None) => (db_core::Priority::Normal, 0),
        }
    }
}
