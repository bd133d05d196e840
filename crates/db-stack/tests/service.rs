//! The example service, driven as its clients do.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../examples/service/app.rs"]
mod app;
mod common;

use app::{NewOrder, Order, SEEN};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    response::Response,
};
use common::rig;
use db_stack::Db;
use db_testkit::Postgres;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tower::ServiceExt;

async fn get(app: &Router, path: &str, seen: Option<&str>) -> Response {
    let mut request = Request::get(path);
    if let Some(seen) = seen {
        request = request.header(SEEN, seen);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn post(app: &Router, key: Option<&str>, item: &str) -> Response {
    let mut request = Request::post("/orders").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let new = NewOrder {
        customer: 7,
        item: item.to_owned(),
        quantity: 2,
    };
    let body = Body::from(serde_json::to_vec(&new).unwrap());
    app.clone().oneshot(request.body(body).unwrap()).await.unwrap()
}

async fn json<T: serde::de::DeserializeOwned>(response: Response) -> T {
    assert!(response.status().is_success(), "{}", response.status());
    serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap()
}

#[tokio::test]
async fn orders_are_placed_once_and_read_by_those_who_placed_them() {
    let rig = rig().await;
    let db = rig.db(4);
    app::prepare(&db).await.unwrap();
    let app = app::router(db.clone());
    assert_eq!(post(&app, None, "tea").await.status(), StatusCode::BAD_REQUEST);
    let first = post(&app, Some("k-1"), "tea").await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let seen = first.headers()[SEEN].to_str().unwrap().to_owned();
    let id: i64 = json(first).await;
    assert_eq!(
        json::<i64>(post(&app, Some("k-1"), "tea").await).await,
        id,
        "the same order"
    );

    let tea = Order {
        id,
        customer: 7,
        item: "tea".to_owned(),
        quantity: 2,
    };
    assert_eq!(
        json::<Order>(get(&app, &format!("/orders/{id}"), None).await).await,
        tea
    );
    let mine: Vec<Order> = json(get(&app, "/customers/7/orders", Some(&seen)).await).await;
    assert_eq!(mine, [tea]);
    let sums: Vec<(String, i64)> = json(get(&app, "/report", None).await).await;
    assert_eq!(sums, [("tea".to_owned(), 2)]);
    assert_eq!(get(&app, "/orders/0", None).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&app, "/livez", None).await.status(), StatusCode::OK);
    let text = to_bytes(get(&app, "/db/metrics", None).await.into_body(), 1 << 20)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&text).contains("ava_db_queries_total"));
    for page in ["/db", "/db/live.json"] {
        assert_eq!(get(&app, page, None).await.status(), StatusCode::OK, "{page}");
    }
    assert!(get(&app, "/db/", None).await.status().is_redirection());
    db.close().await;
}

/// Nobody else calls: neither breaker nor traffic say that the server has gone.
#[tokio::test]
async fn a_lost_server_is_told_to_the_first_who_asks_and_to_the_load_balancer() {
    let server = Postgres::start().await.unwrap();
    let db = Db::builder().url(&server.url()).max_connections(2).configure(|config| {
        config.pool.acquire_timeout = Duration::from_secs(2);
        config.health.interval = Duration::from_secs(5);
        config.health.unready_after = Duration::from_secs(1);
    });
    let db = db.connect().await.unwrap();
    app::prepare(&db).await.unwrap();
    let app = app::router(db.clone());
    let id: i64 = json(post(&app, Some("k-1"), "tea").await).await;
    let path = format!("/orders/{id}");
    let tea: Order = json(get(&app, &path, None).await).await;
    assert_eq!(get(&app, "/readyz", None).await.status(), StatusCode::OK);
    drop(server);

    let since = Instant::now();
    assert_eq!(
        post(&app, Some("k-2"), "tea").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let took = since.elapsed();
    assert!(
        took < Duration::from_millis(3900),
        "one wait for a lease, not several: {took:?}"
    );
    assert_eq!(json::<Order>(get(&app, &path, None).await).await, tea, "from memory");
    while get(&app, "/readyz", None).await.status() == StatusCode::OK {
        // Three probes, five seconds apart, would take 14 s at least from the one before.
        assert!(since.elapsed() < Duration::from_secs(12), "still ready");
        sleep(Duration::from_millis(100)).await;
    }
    db.close().await;
}
