//! A user's session across HTTP requests, over a real socket.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use axum::{
    Extension, Router,
    extract::Path,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use db_stack::{Carry, CausalToken, Db};
use db_testkit::Postgres;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SOON: Duration = Duration::from_secs(20);

/// What came back: the head, and the body.
struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }

    /// The cookie as a browser would send it back.
    fn cookie(&self) -> String {
        let cookie = self.header("set-cookie").unwrap_or_else(|| panic!("{}", self.head));
        cookie.split(';').next().unwrap().to_owned()
    }
}

async fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wire = TcpStream::connect(at).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn write(Extension(db): Extension<Db>, Path(n): Path<i32>) -> String {
    let update = sqlx::query("UPDATE t SET n = $1").bind(n);
    update.execute(&db).await.unwrap().rows_affected().to_string()
}

async fn read(Extension(db): Extension<Db>) -> String {
    let n = sqlx::query_scalar::<_, i32>("SELECT n FROM t").fetch_one(&db).await;
    n.map_or_else(|error| error.to_string(), |n| n.to_string())
}

async fn nothing() -> &'static str {
    "nothing"
}

async fn serve(carry: Carry) -> SocketAddr {
    let app: Router = Router::new()
        .route("/write/{n}", post(write))
        .route("/read", get(read))
        .route("/nothing", get(nothing))
        .layer(from_fn_with_state(carry, Carry::session));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    at
}

async fn connect(primary: &Postgres, replica: &Postgres) -> Db {
    let db = Db::builder().url(&primary.url()).configure(|config| {
        config.replica.urls = replica.url().as_str().into();
        config.replica.poll_interval = Duration::from_millis(100);
    });
    let db = db.connect().await.unwrap();
    assert!(db.nodes_ready(SOON).await);
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_what_the_form_before_it_wrote() {
    let primary = Postgres::start().await.unwrap();
    let mut admin = primary.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n int); INSERT INTO t VALUES (0)")
        .execute(&mut admin)
        .await
        .unwrap();
    let replica = primary.replica().await.unwrap();
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    // Two processes, as far as the stack can tell.
    let (one, two) = (connect(&primary, &replica).await, connect(&primary, &replica).await);
    let form = serve(Carry::new(&one)).await;
    let page = serve(Carry::new(&two).secure()).await;
    replica.pause_replay().await.unwrap();

    let written = ask(form, "POST", "/write/7", &[]).await;
    assert_eq!(written.body, "1");
    let token: CausalToken = written.header("db-token").unwrap().parse().unwrap();
    let cookie = written.cookie();
    assert_eq!(cookie, format!("db_token={token}"));
    let attributes = written.header("set-cookie").unwrap();
    assert!(
        attributes.ends_with("; Path=/; Max-Age=20; HttpOnly; SameSite=Lax"),
        "{attributes}"
    );

    assert_eq!(ask(page, "GET", "/read", &[]).await.body, "0", "the replica is held up");
    let shown = ask(page, "GET", "/read", &[("cookie", &cookie)]).await;
    assert_eq!(shown.body, "7");
    assert!(shown.header("set-cookie").unwrap().ends_with("; Secure"));
    let later: CausalToken = shown.header("db-token").unwrap().parse().unwrap();
    assert!(later >= token, "a session never goes back");
    let header = token.to_string();
    assert_eq!(
        ask(page, "GET", "/read", &[("db-token", &header)]).await.body,
        "7",
        "services pass it on in a header"
    );
    replica.resume_replay().await.unwrap();
    replica.wait_caught_up(&primary, SOON).await.unwrap();
    assert_eq!(ask(page, "GET", "/read", &[("cookie", &cookie)]).await.body, "7");

    // Nothing seen, nothing carried; what was brought goes on.
    let idle = ask(page, "GET", "/nothing", &[]).await;
    assert!(idle.header("db-token").is_none() && idle.header("set-cookie").is_none());
    let idle = ask(page, "GET", "/nothing", &[("cookie", &cookie)]).await;
    assert_eq!(idle.cookie(), cookie);
    // Rubbish is no reason to fail.
    let rubbish = ask(page, "GET", "/read", &[("cookie", "db_token=%%%"), ("db-token", "1.2")]).await;
    assert_eq!(rubbish.body, "7");
    // Neither is a token of another cluster: it is taken back.
    let foreign = CausalToken {
        system: token.system ^ 1,
        ..token
    };
    let foreign = ask(page, "GET", "/nothing", &[("cookie", &format!("db_token={foreign}"))]).await;
    assert!(
        foreign
            .header("set-cookie")
            .unwrap()
            .starts_with("db_token=; Path=/; Max-Age=0")
    );

    let plain = serve(Carry::new(&one).header_only().writes_only()).await;
    let written = ask(plain, "POST", "/write/8", &[]).await;
    assert!(written.header("set-cookie").is_none() && written.header("db-token").is_some());
    assert!(ask(plain, "GET", "/read", &[]).await.header("db-token").is_none());
    one.close().await;
    two.close().await;
}
