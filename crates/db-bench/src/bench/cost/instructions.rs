//! Instructions per call, counted by valgrind: the same on a busy machine as on an idle one.

use super::Step;
use crate::bench::server::Target;
use anyhow::{Context, Result, ensure};
use std::{env, process::Stdio, time::Duration};
use tokio::{process::Command, time::timeout};

/// valgrind is some fifty times slower than the machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Two runs of this program, one with more calls than the other: the difference holds no start and no end.
pub(super) async fn per_call(target: &Target, step: Step) -> Result<f64> {
    let (few, many) = (step.calls() / 5, step.calls());
    let less = count(target, step, few).await?;
    let more = count(target, step, many).await?;
    Ok((more as f64 - less as f64) / f64::from(many - few))
}

async fn count(target: &Target, step: Step, calls: u32) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["bench", "--probe", &format!("{}:{calls}", step.name())])
        // In the environment, where other users do not see a password.
        .env(crate::bench::URL_VARIABLE, target.url())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.context("valgrind did not end")?;
    let output = output.context("--instructions needs valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {text}");
    references(&text).with_context(|| format!("no count in what valgrind said: {text}"))
}

/// The figure in `==42== I   refs:      1,234,567`.
fn references(text: &str) -> Option<u64> {
    let (_, figure) = text.lines().find(|line| line.contains("refs:"))?.split_once("refs:")?;
    figure.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read() {
        assert_eq!(references("==1== \n==1== I   refs:      2,205,331\n"), Some(2_205_331));
        assert_eq!(references("==1== nothing"), None);
    }
}
