//! What the exporter serves: metrics for Prometheus, and the live page for people.

use crate::meter::{Meter, Shared};
use axum::{
    Router,
    extract::{Query, State},
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    response::{Html, IntoResponse, Json},
    routing::get,
};
use serde::Deserialize;
use std::{fmt, io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::AbortHandle};

/// Self-contained: style, script and plots are in it.
const PAGE: &str = include_str!("live/page.html");

impl Meter {
    /// `/` (the live page), `/live.json` (its figures) and `/metrics`, for an existing axum app: nest it or merge it.
    /// It shows statements without their literals and never arguments; still, it is for people who run the service.
    pub fn router(&self) -> Router {
        let page = || async {
            // Nothing is loaded from anywhere else, by whatever means.
            let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";
            ([(CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
        };
        Router::new()
            .route("/", get(page))
            .route("/live.json", get(live))
            .route("/metrics", get(metrics))
            .with_state(self.shared.clone())
    }

    /// Serves [`Meter::router`] on a listener of its own, in the runtime of the caller, until the returned handle is
    /// dropped. Port 0 takes any free one.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub fn serve(&self, address: SocketAddr) -> io::Result<Server> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        self.shared.live.start(&self.shared);
        let router = self.router();
        let task = tokio::spawn(async move {
            // It ends with the handle; an error of accepting is retried inside.
            drop(axum::serve(listener, router).await);
        });
        Ok(Server {
            address,
            task: task.abort_handle(),
        })
    }
}

/// A running exporter. It ends when this is dropped.
pub struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The live page's address.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let text = Meter { shared }.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn live(State(shared): State<Arc<Shared>>, Query(Since { since }): Query<Since>) -> impl IntoResponse {
    shared.live.start(&shared);
    let mut picture = shared.live.picture(since, &shared.publish());
    picture.happenings = shared.happenings.list();
    picture.slow = shared.slow_lines();
    ([(CACHE_CONTROL, "no-store")], Json(picture))
}
