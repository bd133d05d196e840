//! A writer that knows nothing of the stack: psql, fed line by line.

use crate::prove::coherence::{Act, CELLS, TABLES, now};
use anyhow::{Context, bail};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    sync::watch,
    time::{sleep, timeout},
};

/// How long one of its writes may take, a frozen backend of somebody else's included.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes until told to stop.
pub(crate) async fn write(url: String, stopped: watch::Receiver<bool>) -> anyhow::Result<Vec<Act>> {
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("this proof needs psql, which comes with PostgreSQL")?;
    let mut input = psql.stdin.take().context("psql has an input")?;
    let mut output = BufReader::new(psql.stdout.take().context("psql has an output")?).lines();
    let mut dice = fastrand::Rng::with_seed(99);
    let mut writes = Vec::new();
    while !*stopped.borrow() {
        let (table, id) = (dice.u32(0..TABLES), dice.u32(0..CELLS));
        let line = format!("UPDATE cells_{table} SET n = n + 1 WHERE id = {id} RETURNING n;\n");
        let began = now();
        input.write_all(line.as_bytes()).await?;
        input.flush().await?;
        let Some(answer) = timeout(PATIENCE, output.next_line()).await.context("psql hangs")?? else {
            bail!("psql has ended");
        };
        writes.push(Act {
            cell: table * CELLS + id,
            count: answer.trim().parse().with_context(|| format!("psql said {answer:?}"))?,
            began,
            ended: now(),
        });
        sleep(Duration::from_millis(dice.u64(0..8))).await;
    }
    Ok(writes)
}
