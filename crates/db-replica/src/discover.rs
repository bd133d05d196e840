//! Who says which nodes there are: asked from time to time, and at once when the primary is lost.

use crate::{cluster::Tasks, member::Member, shared::Shared};
use futures_core::future::BoxFuture;
use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long one answer may take; the time in which a resolver gives up by itself.
const ANSWER: Duration = Duration::from_secs(10);

/// Any error.
pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Names the nodes.
pub(crate) type Discover = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<Member>, AnyError>> + Send + Sync>;

/// The same, from a closure.
pub(crate) fn boxed<F, E>(discover: impl Fn() -> F + Send + Sync + 'static) -> Discover
where
    F: Future<Output = Result<Vec<Member>, E>> + Send + 'static,
    E: Into<AnyError>,
{
    Arc::new(move || {
        let answer = discover();
        Box::pin(async move { answer.await.map_err(Into::into) })
    })
}

/// Asks for as long as there is a cluster.
pub(crate) async fn keep(shared: Arc<Shared>, tasks: Weak<Tasks>, discover: Discover) {
    loop {
        let asked = Instant::now();
        match timeout(ANSWER, discover()).await {
            Ok(Ok(members)) if !members.is_empty() => {
                let Some(tasks) = tasks.upgrade() else { return };
                tasks.become_members(members, false);
                shared.discovered();
            }
            // An empty answer is a resolver's trouble, not a cluster without nodes: those that are known stay.
            Ok(Ok(_)) => tracing::warn!("no nodes were found: those that are known stay"),
            Ok(Err(error)) => tracing::warn!(%error, "the nodes can't be found out: those that are known stay"),
            Err(_) => tracing::warn!(limit = ?ANSWER, "nobody says which nodes there are: those that are known stay"),
        }
        let config = shared.config.load_full();
        let pause = config.discovery_interval.mul_f64(0.8 + 0.4 * fastrand::f64());
        // A primary that is lost may have a successor that nobody has named yet.
        let soon = async {
            shared.rediscover.notified().await;
            sleep_until(asked + config.search_interval).await;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = soon => {}
        }
    }
}
