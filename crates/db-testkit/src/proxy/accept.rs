//! The task that accepts connections.

use std::{future::pending, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::proxy::{
    fault::{CutStyle, Gate},
    link::{self, Registered},
    shared::Shared,
};

/// Connections at once; more are refused.
const MOST: usize = 10_000;

/// Accepts until it is aborted; owns the tasks of all connections.
pub(crate) async fn accept(shared: Arc<Shared>) {
    let mut listeners = shared.listener.subscribe();
    let mut links = JoinSet::new();
    loop {
        let listener = listeners.borrow_and_update().clone();
        let accepted = tokio::select! {
            accepted = accept_on(listener.as_deref()) => accepted,
            changed = listeners.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            // Takes finished tasks out, so that the set does not grow.
            Some(_) = links.join_next() => continue,
        };
        match accepted {
            Ok(mut client) if *shared.gate.borrow() == Gate::Refuse || links.len() >= MOST => {
                shared.count_refused();
                link::sever(&mut client, CutStyle::Reset).await;
            }
            Ok(client) => {
                let registered = Registered {
                    link: shared.register(),
                    shared: Arc::clone(&shared),
                };
                links.spawn(link::carry(client, registered));
            }
            // Out of descriptors, say: trying again at once would spin.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn accept_on(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => pending().await,
    }
}
