//! The answers to Kubernetes' questions, over real HTTP, of a server that is well, busy, down and on its way out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{SOON, builder, until};
use db_testkit::Postgres;
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    let exchange = async {
        let mut wire = TcpStream::connect(address).await.unwrap();
        // Version 1.0: the answer ends with the connection, in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        wire.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        wire.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(SOON, exchange).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

async fn status(address: SocketAddr, path: &str) -> u16 {
    get(address, path).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubernetes_gets_its_answers() {
    let server = Postgres::start().await.unwrap();
    let db = builder(server.options(), 1).configure(|config| {
        config.health.report_timeout = Duration::from_millis(700);
        config.health.interval = Duration::from_millis(100);
        config.health.timeout = Duration::from_millis(100);
        config.health.unready_after = Duration::from_millis(300);
        config.pool.acquire_timeout = Duration::from_secs(5);
    });
    let db = db.build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = db.health_router();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    // Before anything has succeeded there is to be no traffic yet.
    assert_eq!(status(address, "/livez").await, 200);
    let early = get(address, "/readyz").await;
    assert!(early.status == 503 || early.body["status"] == "ready", "{}", early.body);
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    until("it is ready", async || status(address, "/readyz").await == 200).await;
    let report = get(address, "/healthz").await;
    assert_eq!(report.status, 200, "{}", report.body);
    assert_eq!(report.body["checks"][0]["name"], "connectivity");
    for head in ["cache-control: no-store", "content-type: application/json"] {
        assert!(report.head.contains(head), "{}", report.head);
    }

    // Busy is not ill.
    let lease = db.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { sqlx::query("SELECT 1").execute(&db).await.map(drop) }
    });
    until("somebody waits", async || db.stats().waiting == 1).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(status(address, path).await, 200, "{path}");
    }
    drop(lease);
    waiting.await.unwrap().unwrap();

    // Down: no traffic, and no reason to start the process anew.
    server.kill().await.unwrap();
    until("it is not ready", async || status(address, "/readyz").await == 503).await;
    let report = get(address, "/healthz").await;
    assert_eq!(report.status, 503, "{}", report.body);
    assert_eq!(report.body["checks"][0]["status"], "unhealthy", "{}", report.body);
    assert_eq!(status(address, "/livez").await, 200);
    server.start_again().await.unwrap();
    until("it is ready again", async || status(address, "/readyz").await == 200).await;
    until("all is well again", async || status(address, "/healthz").await == 200).await;

    // On its way out calls are still served.
    db.drain();
    assert_eq!(status(address, "/readyz").await, 503);
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    db.close().await;
    assert_eq!(status(address, "/readyz").await, 503);
    assert_eq!(status(address, "/livez").await, 200, "closed in order");
    assert_eq!(status(address, "/nowhere-else").await, 404);
    serving.abort();
}
