//! The routes.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use db_stack::{CausalToken, Db, Error, Priority, QueryClass, TxConn, with_priority};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a client has seen, to be sent with its next request, so that it reads what it wrote whichever node answers.
pub(crate) const SEEN: &str = "x-seen";
const KEY: &str = "idempotency-key";

/// The table, and the one that [`Db::transaction_once`] needs. A service with migrations has them there.
pub(crate) async fn prepare(db: &Db) -> Result<(), Error> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS orders (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
         customer int8 NOT NULL, item text NOT NULL, quantity int4 NOT NULL)",
    )
    .execute(db)
    .await?;
    db.create_once_table().await
}

pub(crate) fn router(db: Db) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(order))
        .route("/customers/{id}/orders", get(orders_of))
        .route("/report", get(report))
        .with_state(db.clone())
        // /livez, /readyz, /healthz
        .merge(db.health_router())
        // /db/metrics for Prometheus, and the live page at /db
        .nest("/db", db.metrics().router())
        .route("/db/", get(|| async { Redirect::permanent("/db") }))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) customer: i64,
    pub(crate) item: String,
    pub(crate) quantity: i32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct NewOrder {
    pub(crate) customer: i64,
    pub(crate) item: String,
    pub(crate) quantity: i32,
}

/// Exactly once for each key, also when the client or the network repeats it: what the service exists for, so it goes first.
async fn place(State(db): State<Db>, headers: HeaderMap, Json(new): Json<NewOrder>) -> Result<Response, Refusal> {
    let Some(key) = headers.get(KEY).and_then(|key| key.to_str().ok()) else {
        return Ok((StatusCode::BAD_REQUEST, "an idempotency-key is missing").into_response());
    };
    let db = db.critical().session();
    let NewOrder {
        customer,
        item,
        quantity,
    } = new;
    let insert = db.transaction_once_stored(key, async move |tx: &mut TxConn| {
        let id: i64 =
            sqlx::query_scalar("INSERT INTO orders (customer, item, quantity) VALUES ($1, $2, $3) RETURNING id")
                .bind(customer)
                .bind(&item)
                .bind(quantity)
                .fetch_one(&mut *tx)
                .await?;
        Ok::<_, Error>(id)
    });
    let id = insert.await?;
    let seen = db.token().await?.map(|token| (SEEN, token.to_string()));
    Ok((StatusCode::CREATED, AppendHeaders(seen), Json(id)).into_response())
}

/// From memory for 30 s, unless an order is written through this process; for five minutes when the database is away.
async fn order(State(db): State<Db>, Path(id): Path<i64>) -> Result<Json<Order>, Refusal> {
    let cached = db
        .cached(Duration::from_secs(30))
        .stale_if_error(Duration::from_secs(300));
    let order = sqlx::query_as::<_, Order>("SELECT id, customer, item, quantity FROM orders WHERE id = $1").bind(id);
    Ok(Json((*cached.fetch_one(order).await?).clone()))
}

/// From a replica that has what the client has seen, if it says so.
async fn orders_of(
    State(db): State<Db>,
    Path(customer): Path<i64>,
    headers: HeaderMap,
) -> Result<Json<Vec<Order>>, Refusal> {
    let token = headers
        .get(SEEN)
        .and_then(|token| token.to_str().ok()?.parse::<CausalToken>().ok());
    let db = match token {
        Some(token) => db.session_from(token),
        None => db,
    };
    let orders = sqlx::query_as("SELECT id, customer, item, quantity FROM orders WHERE customer = $1 ORDER BY id");
    Ok(Json(orders.bind(customer).fetch_all(&db).await?))
}

/// Nobody waits for it: it takes what the others leave, and has half a minute.
async fn report(State(db): State<Db>) -> Result<Json<Vec<(String, i64)>>, Refusal> {
    let rows = with_priority(Priority::Background, async {
        let sums = sqlx::query_as("SELECT item, sum(quantity)::int8 FROM orders GROUP BY item ORDER BY item");
        sums.fetch_all(&db.class(QueryClass::Slow)).await
    });
    Ok(Json(rows.await?))
}

/// An error of the stack as an answer: whose fault it is, and when it is worth another try.
pub(crate) struct Refusal(Error);

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Error::Client(sqlx::Error::RowNotFound) => StatusCode::NOT_FOUND,
            Error::Acquire(_) | Error::Breaker(_) | Error::Network { .. } | Error::CommitUnknown { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Error::Config(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let wait = self.0.retry_after().map(|wait| wait.as_secs().max(1).to_string());
        let wait = AppendHeaders(wait.map(|wait| (RETRY_AFTER, wait)));
        // The text is for the log: it names tables and nodes.
        eprintln!("{status}: {}", self.0);
        (status, wait, status.to_string()).into_response()
    }
}
