//! The live page in a real browser: it shows a breaker opening within two seconds, logs no error, and fits a phone.

use db_core::{Call, Error, Layer, Observers, Rows, Service, Statement, service_fn};
use db_metrics::{Id, Meter, MetricsConfig, ObserveLayer, PoolReading, Read, Readings, SpanTarget, TracingConfig};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Starting a browser on a busy machine takes its time.
const START: Duration = Duration::from_secs(40);

/// A browser with one page, spoken to by its own protocol.
struct Browser {
    _process: Child,
    _profile: tempfile::TempDir,
    wire: WebSocketStream<MaybeTlsStream<TcpStream>>,
    number: u64,
    /// Errors of the page's console.
    errors: Vec<String>,
}

impl Browser {
    async fn open(program: &str, url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
            ])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let found = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, address)) = line.split_once("DevTools listening on ws://") {
                    return address.split('/').next().map(str::to_owned);
                }
            }
            None
        };
        let address = timeout(START, found).await.expect("in time").expect("an address");
        // It must be able to go on talking.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let page = first_page(&address).await;
        let (wire, _) = connect_async(page).await.expect("the page listens");
        let mut browser = Self {
            _process: process,
            _profile: profile,
            wire,
            number: 0,
            errors: Vec::new(),
        };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.ask(domain, json!({})).await;
        }
        browser.ask("Page.navigate", json!({"url": url})).await;
        browser
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let request = json!({"id": self.number, "method": method, "params": params}).to_string();
        self.wire
            .send(Message::text(request))
            .await
            .expect("the browser listens");
        loop {
            let next = timeout(START, self.wire.next()).await.expect("an answer in time");
            let Some(Ok(Message::Text(text))) = next else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.number {
                return answer["result"].clone();
            }
            let kind = answer["method"].as_str().unwrap_or_default();
            let level = answer["params"]["entry"]["level"]
                .as_str()
                .or(answer["params"]["type"].as_str());
            if kind == "Runtime.exceptionThrown" || level == Some("error") {
                self.errors.push(answer["params"].to_string());
            }
        }
    }

    async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.ask("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// How long until the expression is true.
    async fn until(&mut self, expression: &str, limit: Duration) -> Duration {
        let since = Instant::now();
        while self.value(expression).await != json!(true) {
            assert!(since.elapsed() < limit, "not within {limit:?}: {expression}");
            sleep(Duration::from_millis(20)).await;
        }
        since.elapsed()
    }
}

/// The debugger's address of the first tab.
async fn first_page(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let since = Instant::now();
    loop {
        let mut wire = TcpStream::connect(address).await.expect("the browser listens");
        let request = format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\n\r\n");
        wire.write_all(request.as_bytes()).await.expect("sent");
        // The browser keeps the connection: the answer is whole when its body is JSON.
        let (mut answer, mut list) = (Vec::new(), Value::Null);
        while list.is_null() && answer.len() < 100_000 {
            match timeout(Duration::from_secs(1), wire.read_buf(&mut answer)).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => break,
            }
            let text = String::from_utf8_lossy(&answer);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            list = body
                .and_then(|body| serde_json::from_str(&body).ok())
                .unwrap_or_default();
        }
        let page = list.as_array().into_iter().flatten().find(|tab| tab["type"] == "page");
        if let Some(url) = page.and_then(|tab| tab["webSocketDebuggerUrl"].as_str()) {
            return url.to_owned();
        }
        assert!(since.elapsed() < START, "no page: {list}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[derive(Default)]
struct Layers {
    open: AtomicBool,
}

impl Read for Layers {
    fn read(&self, readings: &mut Readings) {
        readings.pool(PoolReading {
            used: 3,
            idle: 4,
            max: 10,
            ..PoolReading::default()
        });
        let open = self.open.load(Ordering::Relaxed);
        readings.gauge(Id::BreakerState, &["open"], f64::from(u8::from(open)));
        readings.gauge(Id::ReplicaLag, &["db2:5432"], 0.25);
        readings.total(Id::ReplicaReads, &["db2:5432"], 41);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_a_breaker_opening_within_two_seconds() {
    let Some(program) = browser() else { return };
    let observers = Observers::default();
    let meter = Meter::new(MetricsConfig::default(), &observers).unwrap();
    let layers = Arc::<Layers>::default();
    meter.add_source(layers.clone());
    let layer = ObserveLayer::new(observers, TracingConfig::default(), SpanTarget::default());
    let service = layer.layer(service_fn(|_: Call| async { Ok::<_, Error>(Rows::default()) }));
    let load = tokio::spawn(async move {
        let statement = Statement::all("SELECT 1 FROM orders").expect("no arguments");
        loop {
            let _ = service.call(&Call::here(), &statement).await;
            sleep(Duration::from_millis(2)).await;
        }
    });
    let server = meter.serve("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut page = Browser::open(&program, &server.url()).await;
    let pill =
        |state: &str| format!("document.querySelector('#pills')?.textContent.includes('breaker {state}') === true");
    page.until(&pill("closed"), START).await;
    page.until("Number(document.body.dataset.turns) > 3", START).await;

    layers.open.store(true, Ordering::Relaxed);
    let took = page.until(&pill("open"), Duration::from_secs(2)).await;
    println!("on the page after {took:?}");

    let plots =
        page.value("[...document.querySelectorAll('svg path')].filter(p => p.getAttribute('d').length > 20).length");
    assert!(plots.await.as_u64() >= Some(10), "plots have lines");
    let text = page.value("document.body.innerText").await;
    let text = text.as_str().unwrap();
    for word in ["Calls per second", "Latency", "db2:5432", "Slow statements"] {
        assert!(text.contains(word), "{word} is not on the page: {text}");
    }
    // A phone: nothing is cut off, and letters have their size.
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": true});
    page.ask("Emulation.setDeviceMetricsOverride", phone).await;
    page.until("innerWidth === 390", Duration::from_secs(5)).await;
    let fits = "document.documentElement.scrollWidth <= innerWidth && \
                [...document.querySelectorAll('section')].every(s => s.getBoundingClientRect().right <= innerWidth) && \
                parseFloat(getComputedStyle(document.body).fontSize) >= 14";
    assert_eq!(page.value(fits).await, json!(true), "the page fits a phone");
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    load.abort();
}

/// The browser; without one the test says that it was skipped, or fails where nothing may be skipped.
fn browser() -> Option<String> {
    let there = |program: &&str| {
        let version = std::process::Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find(|program| there(program));
    if found.is_none() {
        db_testkit::skip("the live page in a browser", "chromium is not installed");
    }
    found.map(|program| (*program).to_owned())
}
