//! The task that looks at one node, at a pace that depends on who waits for what.

use crate::{node::Node, probe::Wire, shared::Shared};
use db_core::SqlState;
use std::{io, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// The pace while reads wait for a replica to replay, doubled up to the second.
const CLOSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// Looks at `node` for as long as it belongs to the cluster.
pub(crate) async fn watch(shared: Arc<Shared>, node: Arc<Node>) {
    let mut wire = Wire::default();
    let mut full = None;
    let mut close = CLOSE.0;
    loop {
        let config = shared.config.load_full();
        let at = Instant::now();
        // Everything once per interval and after a fault; in between only how far it is.
        let due = full.is_none_or(|last: Instant| at >= last + config.poll_interval)
            || !wire.is_open()
            || shared.searching()
            || node.suspect.load(std::sync::atomic::Ordering::Relaxed);
        if due {
            full = Some(at);
            let looked = look(&shared, &node, &mut wire, config.probe_timeout).await;
            shared.looked(&node, at, looked);
        } else {
            match timeout(config.probe_timeout, wire.glance()).await {
                Ok(Ok(Some(glimpse))) => {
                    if !shared.glanced(&node, at, glimpse) {
                        full = None;
                        continue;
                    }
                }
                _ => {
                    wire = Wire::default();
                    full = None;
                    continue;
                }
            }
        }
        let pause = if shared.is_awaited(&node) {
            let pause = close;
            close = (close * 2).min(CLOSE.1);
            pause
        } else {
            close = CLOSE.0;
            shared.pace()
        };
        tokio::select! {
            () = node.nudge.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// A connection that has broken since the last look says nothing about the node: a second try over a new one does.
async fn look(shared: &Shared, node: &Node, wire: &mut Wire, limit: Duration) -> Result<crate::probe::Found, Silence> {
    let options = node.member.options();
    let (fresh, since) = (!wire.is_open(), Instant::now());
    let first = timeout(limit, wire.look(options)).await;
    if matches!(first, Ok(Ok(_))) && !fresh {
        node.load.pace.looked(since.elapsed());
    }
    let answer = match first {
        Ok(Err(_)) if !fresh => {
            *wire = Wire::default();
            timeout(limit, wire.look(options)).await
        }
        answer => answer,
    };
    let found = answer.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())));
    found.map_err(|error| {
        *wire = Wire::default();
        tracing::debug!(node = %node.member.name(), %error, epoch = shared.epoch(), "no answer from a node");
        Silence {
            gone: is_gone(&error),
            message: error.to_string().into(),
        }
    })
}

/// A node that did not answer.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) gone: bool,
    pub(crate) message: Arc<str>,
}

/// Whether the error says that nobody is there. A server that is full or refuses the password is there.
fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(io) => io.kind() != io::ErrorKind::TimedOut,
        sqlx::Error::Database(error) => SqlState::from_code(error.code().as_deref().unwrap_or_default()).is_shutdown(),
        _ => false,
    }
}
