//! Which server stands behind the endpoint: a connection to another one shows that it has moved.

use crate::{conn::Conn, shared::Shared, state::State};
use db_core::Event;
use std::collections::VecDeque;

/// Servers that are remembered: one that is met again is no move, but one of several behind the same name.
const REMEMBERED: usize = 8;

/// A server process, as one of its sessions sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// When its postmaster started, as the server prints it: another server, or the same one after a restart, has
    /// another time.
    pub started: Box<str>,
    /// Whether it was a standby then.
    pub standby: bool,
}

impl Server {
    /// Through a transaction pooler nobody knows which server it is.
    pub(crate) fn behind_pooler() -> Self {
        Self {
            started: "".into(),
            standby: false,
        }
    }
}

/// The servers that were met, the latest last.
#[derive(Default)]
pub(crate) struct Moves {
    met: VecDeque<Box<str>>,
    /// The epoch before the last move: dials that had begun in it may have reached the new server as well.
    before: Option<u64>,
}

/// The endpoint has moved.
pub(crate) struct Moved {
    epoch: u64,
    still_out: u32,
}

impl Moves {
    /// Whether this server is another one than before, and new.
    fn meet(&mut self, server: &Server) -> bool {
        if server.started.is_empty() || self.met.contains(&server.started) {
            return false;
        }
        if self.met.len() == REMEMBERED {
            self.met.pop_front();
        }
        self.met.push_back(server.started.clone());
        self.met.len() > 1
    }

    fn is_latest(&self, server: &Server) -> bool {
        self.met.back() == Some(&server.started)
    }
}

impl State {
    /// A connection has been opened: it may be the first to a server that has taken the place of another.
    pub(crate) fn arrive(&mut self, conn: &mut Conn) -> Option<Moved> {
        if conn.epoch != self.epoch {
            // Dialled before the move, and yet to where the endpoint is now.
            if self.moves.before == Some(conn.epoch) && self.moves.is_latest(&conn.backend.server) {
                conn.epoch = self.epoch;
            }
            return None;
        }
        let moved = self.meet(&conn.backend.server);
        conn.epoch = self.epoch;
        moved
    }

    /// The same for a connection that is none of the pool's.
    pub(crate) fn meet(&mut self, server: &Server) -> Option<Moved> {
        if !self.moves.meet(server) {
            return None;
        }
        let before = self.epoch;
        let moved = self.next_epoch();
        self.moves.before = Some(before);
        Some(moved)
    }

    /// Connections of before are closed as they come back.
    pub(crate) fn next_epoch(&mut self) -> Moved {
        self.epoch += 1;
        self.moves.before = None;
        Moved {
            epoch: self.epoch,
            still_out: self.stats.in_use,
        }
    }
}

impl Shared {
    /// A new epoch, whatever the server.
    pub(crate) fn next_epoch(&self) {
        let moved = self.state.lock().next_epoch();
        self.moved(moved);
    }

    /// A new epoch, unless it has come already.
    pub(crate) fn next_epoch_after(&self, epoch: u64) {
        let moved = {
            let mut state = self.state.lock();
            (state.epoch == epoch).then(|| state.next_epoch())
        };
        if let Some(moved) = moved {
            self.moved(moved);
        }
    }

    /// Tells everybody.
    pub(crate) fn moved(&self, moved: Moved) {
        let Moved { epoch, still_out } = moved;
        self.epochs.send_replace(epoch);
        self.statements.moved();
        self.demand.notify_one();
        self.observers.tell(|| Event::EndpointMoved { epoch, still_out });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(started: &str) -> Server {
        Server {
            started: started.into(),
            standby: false,
        }
    }

    #[test]
    fn another_server_is_a_move_and_one_of_several_is_none() {
        let mut moves = Moves::default();
        assert!(!moves.meet(&server("a")), "the first one");
        assert!(!moves.meet(&server("a")));
        assert!(moves.meet(&server("b")), "restarted, or another one");
        assert!(!moves.meet(&server("a")), "both stand behind the same name");
        assert!(!moves.meet(&server("b")));
        for n in 0..100 {
            moves.meet(&server(&n.to_string()));
        }
        assert_eq!(moves.met.len(), REMEMBERED);
    }
}
