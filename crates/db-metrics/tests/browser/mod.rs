//! A real browser, spoken to by its own protocol.
#![allow(dead_code, reason = "each user takes a part of it")]

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Starting a browser on a busy machine takes its time.
pub(crate) const START: Duration = Duration::from_secs(40);

/// A browser with one page, spoken to by its own protocol.
pub(crate) struct Browser {
    _process: Child,
    _profile: tempfile::TempDir,
    wire: WebSocketStream<MaybeTlsStream<TcpStream>>,
    number: u64,
    /// Errors of the page's console.
    pub(crate) errors: Vec<String>,
}

impl Browser {
    /// The program, if it is installed.
    pub(crate) fn find() -> Option<String> {
        let there = |program: &&str| {
            let version = std::process::Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .find(|program| there(program));
        found.map(|program| (*program).to_owned())
    }

    /// Shows the page as a phone would, 390 points wide.
    pub(crate) async fn on_a_phone(&mut self, height: u32, scale: f64) {
        let phone = json!({"width": 390, "height": height, "deviceScaleFactor": scale, "mobile": true});
        self.ask("Emulation.setDeviceMetricsOverride", phone).await;
        self.until("innerWidth === 390", Duration::from_secs(5)).await;
    }

    /// What is to be seen, as a PNG.
    pub(crate) async fn picture(&mut self) -> Vec<u8> {
        let shot = self.ask("Page.captureScreenshot", json!({"format": "png"})).await;
        let text = shot["data"].as_str().expect("a picture");
        BASE64_STANDARD.decode(text).expect("base64")
    }

    pub(crate) async fn open(program: &str, url: &str) -> Self {
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

    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
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

    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.ask("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// How long until the expression is true.
    pub(crate) async fn until(&mut self, expression: &str, limit: Duration) -> Duration {
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
