//! Pictures of a live page, as a desktop and as a phone show it: `cargo xtask screenshots` runs the demo and this.
//!
//! `cargo run -p db-metrics --example screenshots -- URL FOLDER`

#[path = "../tests/browser/mod.rs"]
mod browser;

use browser::{Browser, START};
use serde_json::json;
use std::{env, error::Error, fs, path::Path, time::Duration};
use tokio::net::TcpStream;

/// Samples of half a second that the plots show before the first picture.
const SAMPLES: u32 = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(url), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("screenshots URL FOLDER".into());
    };
    let program = Browser::find().ok_or("chromium is not installed")?;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    served(address).await?;
    let mut page = Browser::open(&program, &url).await;
    let desktop = json!({"width": 1280, "height": 1150, "deviceScaleFactor": 1, "mobile": false});
    page.ask("Emulation.setDeviceMetricsOverride", desktop).await;
    page.until(&format!("samples.length >= {SAMPLES}"), START).await;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    write(folder, "live-desktop.png", &page.picture().await)?;
    page.on_a_phone(1500, 1.0).await;
    // Drawn anew at its new width.
    let turns = page.value("document.body.dataset.turns").await;
    page.until(&format!("document.body.dataset.turns !== {turns}"), START)
        .await;
    write(folder, "live-phone.png", &page.picture().await)?;
    if page.errors.is_empty() {
        Ok(())
    } else {
        Err(format!("errors on the page: {:?}", page.errors).into())
    }
}

/// Waits until somebody listens there: the demo has to be built and its server to be started first.
async fn served(address: &str) -> Result<(), Box<dyn Error>> {
    for _ in 0..1200 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(format!("nobody listens at {address}").into())
}

fn write(folder: &Path, name: &str, picture: &[u8]) -> Result<(), Box<dyn Error>> {
    let path = folder.join(name);
    fs::write(&path, picture)?;
    println!("{}: {} KiB", path.display(), picture.len().div_ceil(1024));
    Ok(())
}
