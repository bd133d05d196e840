//! From what a session has seen to a position that a replica must have replayed.

use crate::{node::Node, shared::Shared};
use db_core::{Call, CausalError, CausalSession, CausalToken, NodeId, Result, Target};
use tokio::time::Instant;

/// What a replica must be able to show.
#[derive(Clone, Debug)]
pub(crate) enum Floor {
    /// Anything.
    None,
    /// This position.
    At(CausalToken),
    /// This position, or whatever this node shows: the session has read there last.
    AtOrOn(Option<CausalToken>, NodeId),
    /// More than is known: only the primary will do.
    Unknown,
}

impl Floor {
    pub(crate) fn allows(&self, node: &Node) -> bool {
        match self {
            Self::None => true,
            Self::At(token) => node.has_replayed(*token),
            Self::AtOrOn(token, id) => node.id == *id && token.is_none_or(|token| node.has_replayed(token)),
            Self::Unknown => false,
        }
    }
}

/// The floor of a call. Asks nobody when nothing has been seen, or when what was seen has a known position.
///
/// # Errors
/// [`CausalError`] when the session's token can't be honoured.
pub(crate) async fn floor(shared: &Shared, call: &Call, limit: Instant) -> Result<Floor> {
    let seen = call.session.as_ref().map(|session| session.seen()).unwrap_or_default();
    let mut since = seen.primary;
    match call.target {
        // In the first moments of the machine's clock: nothing older than now.
        Target::Fresh(age) => since = since.max(Instant::now().checked_sub(age).or_else(|| Some(Instant::now()))),
        Target::Since(moment) => since = since.max(Some(moment)),
        _ => {}
    }
    let mut token = seen.token;
    if let Some(token) = token {
        known(shared, token, limit).await?;
    }
    if let Some(since) = since {
        let Some(position) = shared.position_after(since, limit).await else {
            return Ok(Floor::Unknown);
        };
        if let Some(session) = &call.session {
            session.resolved(position, seen.primary.filter(|at| *at <= since), None);
        }
        token = token.max(Some(position));
    }
    let Some((id, at)) = seen.replica else {
        return Ok(token.map_or(Floor::None, Floor::At));
    };
    let node = shared.node(id);
    match node.as_ref().and_then(|node| node.replayed_since(at)) {
        Some(shown) => {
            if let Some(session) = &call.session {
                session.resolved(shown, None, Some((id, at)));
            }
            Ok(Floor::At(token.map_or(shown, |token| token.max(shown))))
        }
        // As long as it is good enough, staying there costs nothing.
        None if node.is_some_and(|node| node.serves() && token.is_none_or(|token| node.has_replayed(token))) => {
            Ok(Floor::AtOrOn(token, id))
        }
        // What the replica showed is at most what the primary had.
        None => match shared.position_after(at, limit).await {
            Some(position) => Ok(Floor::At(token.map_or(position, |token| token.max(position)))),
            None => Ok(Floor::Unknown),
        },
    }
}

/// Whether the cluster can have what the token has seen; waits for a timeline that has not been noticed yet.
pub(crate) async fn known(shared: &Shared, token: CausalToken, limit: Instant) -> Result<(), CausalError> {
    let check = || shared.head.lock().check(token);
    match check() {
        Err(CausalError::UnknownTimeline { timeline, .. }) if token.timeline > timeline => {
            shared.nudge_all();
            let decided = || match check() {
                Err(CausalError::UnknownTimeline { timeline, .. }) if token.timeline > timeline => None,
                decided => Some(decided),
            };
            shared.until(limit, decided).await.unwrap_or_else(check)
        }
        decided => decided,
    }
}

/// What the session has seen, as a value.
pub(crate) async fn token(shared: &Shared, session: &CausalSession, limit: Instant) -> Result<Option<CausalToken>> {
    let seen = session.seen();
    if let Some((id, at)) = seen.replica {
        let node = shared.node(id);
        // Whichever is known first: what the replica had replayed then, or a position of the primary of later.
        let shown = shared.shown_after(node.as_deref(), at, limit).await;
        session.resolved(shown.ok_or(CausalError::NoPosition)?, None, Some((id, at)));
    }
    if let Some(at) = seen.primary {
        let position = shared.position_after(at, limit).await;
        session.resolved(position.ok_or(CausalError::NoPosition)?, Some(at), None);
    }
    Ok(session.seen().token)
}
