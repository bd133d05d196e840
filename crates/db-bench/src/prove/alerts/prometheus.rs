//! A real Prometheus on a port of its own, and its tool.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::sleep,
};

use crate::prove::http;

/// The program that is not there.
pub(crate) fn missing() -> Option<&'static str> {
    let there = |program: &&str| {
        std::process::Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    };
    ["promtool", "prometheus"].into_iter().find(|program| !there(program))
}

/// Whether the tool is content; what it says is shown where it is not.
pub(crate) async fn promtool(folder: &Path, args: &[&str]) -> anyhow::Result<bool> {
    let output = Command::new("promtool").args(args).current_dir(folder).output().await?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        println!("promtool {args:?}:\n{out}{err}");
    }
    Ok(output.status.success())
}

/// Ends with this handle.
pub(crate) struct Prometheus {
    url: String,
    _process: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes `exporter` once a second and evaluates `rules`; ready when the first scrape is in.
    pub(crate) async fn start(exporter: &str, rules: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let target = exporter.trim_start_matches("http://").trim_end_matches('/');
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files:\n  - rules.yml\n\
             scrape_configs:\n  - job_name: demo\n    static_configs:\n      - targets: ['{target}']\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config)?;
        std::fs::write(folder.path().join("rules.yml"), rules)?;
        // Free a moment ago; Prometheus can't be handed a listener.
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let process = Command::new("prometheus")
            .args([
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--log.level=error",
            ])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("prometheus does not start")?;
        let started = Self {
            url: format!("http://127.0.0.1:{port}/"),
            _process: process,
            _folder: folder,
        };
        for _ in 0..200 {
            sleep(Duration::from_millis(100)).await;
            if started
                .names()
                .await
                .is_ok_and(|names| names.iter().any(|name| name.starts_with("ava_")))
            {
                return Ok(started);
            }
        }
        bail!("prometheus made no scrape within 20 s")
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&http::get(&self.url, path).await?)?)
    }

    /// The names of the alerts that fire now.
    pub(crate) async fn firing(&self) -> anyhow::Result<BTreeSet<String>> {
        let answer = self.ask("/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let names = firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned));
        Ok(names.collect())
    }

    /// Every metric that it has seen.
    pub(crate) async fn names(&self) -> anyhow::Result<BTreeSet<String>> {
        let answer = self.ask("/api/v1/label/__name__/values").await?;
        let names = answer["data"].as_array().context("no names")?;
        Ok(names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect())
    }
}
