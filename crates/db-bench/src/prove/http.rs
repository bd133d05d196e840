//! The little of HTTP that proofs need.

use anyhow::{Context, ensure};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The body of `GET path` at `url` (`http://host:port/`).
pub(crate) async fn get(url: &str, path: &str) -> anyhow::Result<String> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let exchange = async {
        let mut wire = TcpStream::connect(address).await?;
        // Version 1.0: the answer ends with the connection, in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        wire.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        wire.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = timeout(Duration::from_secs(5), exchange)
        .await
        .context("no answer in 5 s")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(
        head.contains(" 200 "),
        "{path}: {}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.to_owned())
}
