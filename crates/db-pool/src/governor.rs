//! The task that moves the limit on leases in use, by what the server can do and by what it has free.

use crate::{
    config::PoolConfig,
    limiter::{ENOUGH, Limiter, Window},
    shared::Shared,
    state::Load,
};
use db_core::{Event, LimitReason};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How often the figures are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often a task with nothing to do looks whether it has something to do.
const IDLE: Duration = Duration::from_millis(500);
/// A tick that comes later tells of a stall of our own, not of the server: its window is not used.
const STALL: Duration = Duration::from_millis(250);
/// The server is asked so often while the room grows.
const EAGER: Duration = Duration::from_millis(100);
/// Room until the server has been asked.
pub(crate) const START: u32 = 2;

/// Where a window began.
struct Mark {
    at: Instant,
    load: Load,
}

/// Moves the limit, for as long as the pool lives and its settings say so.
pub(crate) async fn govern(shared: Arc<Shared>) {
    let mut limiter = Limiter::new();
    let mut mark: Option<Mark> = None;
    let mut census_at = Instant::now();
    let mut contended = false;
    loop {
        let config = shared.config.load_full();
        if config.limit.mode.is_off() {
            (limiter, mark) = (Limiter::new(), None);
            census_at = Instant::now();
            sleep(IDLE).await;
            continue;
        }
        let due = Instant::now() + TICK;
        sleep(TICK).await;
        if Instant::now() > due + STALL {
            mark = None;
        }
        if Instant::now() >= census_at {
            let growing = match shared.control.census().await {
                Some(census) => {
                    contended = census.contended();
                    shared.make_room(&config, |open| census.room(open))
                }
                // Nothing can be asked, as behind some poolers: then the settings are all there is.
                None if shared.state.lock().stats.size > 0 => shared.make_room(&config, |_| config.max_connections),
                None => true,
            };
            census_at = Instant::now()
                + if growing {
                    EAGER.min(config.limit.census_interval)
                } else {
                    config.limit.census_interval
                };
        }
        let now = Instant::now();
        let (load, limit, room, settle) = {
            let state = shared.state.lock();
            (state.load, state.limit, state.room, state.forecast.longest_mean())
        };
        let Some(begun) = &mark else {
            // Leases of the time before are still out.
            let settle = (2 * settle).clamp(TICK, config.limit.window);
            mark = Some(Mark { at: now + settle, load });
            continue;
        };
        if now < begun.at {
            mark = Some(Mark { at: begun.at, load });
            continue;
        }
        if now < begun.at + Limiter::window(&config.limit) {
            continue;
        }
        let window = load.since(&begun.load, now - begun.at, contended);
        match limiter.decide(&config.limit, limit, room, &window) {
            Some(change) => {
                shared.set_limit(&config, change.to, change.reason);
                mark = None;
            }
            // Too few leases to tell: the window goes on, or a small limit could never be left.
            None if window.full && window.completed < ENOUGH => {}
            None => mark = Some(Mark { at: now, load }),
        }
    }
}

impl Load {
    fn since(&self, before: &Self, took: Duration, contended: bool) -> Window {
        let completed = self.completed - before.completed;
        Window {
            took,
            completed,
            held: Duration::from_nanos(self.held - before.held),
            // A third of what came back went to somebody who waited for it.
            full: (self.handed - before.handed) * 3 >= completed.max(1),
            contended,
        }
    }
}

impl Shared {
    /// The limit that the policy wants.
    fn set_limit(&self, config: &PoolConfig, to: u32, reason: LimitReason) {
        let enforced = config.limit.mode.enforces();
        let from = {
            let mut state = self.state.lock();
            let from = state.limit;
            if enforced {
                let room = state.room;
                state.resize(config, to, room);
            }
            from
        };
        self.limit_changed(from, to, reason, enforced);
    }

    /// The room that the server has for us; at most twice of what it was, so that those who start together see each
    /// other before they meet. Whether it is to grow further.
    fn make_room(&self, config: &PoolConfig, room: impl Fn(u32) -> u32) -> bool {
        if !config.limit.mode.enforces() {
            return false;
        }
        let (from, to, growing) = {
            let mut state = self.state.lock();
            let (from, had) = (state.limit, state.room);
            let allowed = room(state.open()).min(config.limit.absolute_max);
            let to = allowed.min(had.saturating_mul(2));
            let target = state.target;
            state.resize(config, target, to);
            (from, state.limit, to < allowed || to > had)
        };
        self.limit_changed(from, to, LimitReason::Share, true);
        growing
    }

    /// The server has refused a connection for want of room.
    pub(crate) fn no_room(&self, config: &PoolConfig) {
        if !config.limit.mode.enforces() {
            return;
        }
        let (from, to) = {
            let mut state = self.state.lock();
            let (from, target) = (state.limit, state.target);
            let room = (state.stats.size + state.stats.lent).max(1).min(state.room);
            // Not a failure, but the answer to the question of how many there may be.
            state.failure = None;
            state.resize(config, target, room);
            (from, state.limit)
        };
        self.limit_changed(from, to, LimitReason::Refused, true);
    }

    fn limit_changed(&self, from: u32, to: u32, reason: LimitReason, enforced: bool) {
        if from == to {
            return;
        }
        self.observers.tell(|| Event::LimitChanged {
            from,
            to,
            reason,
            enforced,
        });
        // The keeper serves those who wait from what is idle, or lets go of what is too much.
        self.demand.notify_one();
    }
}
