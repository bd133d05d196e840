//! The answers to Kubernetes' questions, as an axum router.

use super::handle::Health;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

impl Health {
    /// `GET /livez`, `/readyz` and `/healthz`: 200 or 503, with the reason as JSON.
    ///
    /// `/livez` and `/readyz` ask nobody and answer at once, whatever the database does; `/healthz` is a whole report, for
    /// people and dashboards and not for probes. Merge it into the service's router.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(healthz))
            .with_state(self.clone())
    }
}

async fn livez(State(health): State<Health>) -> Response {
    let liveness = health.liveness();
    answer(liveness.http_status(), &liveness)
}

async fn readyz(State(health): State<Health>) -> Response {
    let readiness = health.readiness();
    answer(readiness.http_status(), &readiness)
}

async fn healthz(State(health): State<Health>) -> Response {
    let report = health.report().await;
    answer(report.http_status(), &report)
}

fn answer<T: Serialize>(status: u16, body: &T) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, Json(body)).into_response()
}
