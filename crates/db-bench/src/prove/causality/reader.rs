//! The other process: reads rows for sessions of which it knows the token only.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, anyhow, bail};
use db_stack::CausalToken;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin},
    process::{Child, ChildStdin, Command},
    sync::{mpsc, oneshot},
};

use crate::prove::{
    Verdict,
    causality::{connect, read},
};

/// Names the servers for the other process, primary first.
pub(crate) const URLS: &str = "DB_STACK_CAUSALITY_READER";
/// Before each line that is meant for us.
const MARK: &str = "answer";
const FAILED: &str = "failed";

/// What the other process read.
pub(crate) struct Answer {
    pub(crate) n: i64,
    pub(crate) token: CausalToken,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<anyhow::Result<Answer>>>>>;

/// The other process, seen from here.
pub(crate) struct Reader {
    child: Child,
    questions: mpsc::Sender<String>,
    waiting: Waiting,
    shares: oneshot::Receiver<(u64, u64)>,
    next: AtomicU64,
}

impl Reader {
    pub(crate) fn spawn(primary: &str, replicas: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["prove", "causality"])
            .env(URLS, format!("{primary},{replicas}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the other process can't be started")?;
        let stdin = child.stdin.take().context("no pipe to the other process")?;
        let stdout = child.stdout.take().context("no pipe from the other process")?;
        let (questions, asked) = mpsc::channel(64);
        let waiting = Waiting::default();
        let (share, shares) = oneshot::channel();
        tokio::spawn(send(stdin, asked));
        tokio::spawn(receive(BufReader::new(stdout), waiting.clone(), share));
        Ok(Self {
            child,
            questions,
            waiting,
            shares,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) async fn ask(&self, id: u64, token: CausalToken) -> anyhow::Result<Answer> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(number, answer);
        self.questions.send(format!("{number} {id} {token}\n")).await?;
        answered.await.context("the other process has gone")?
    }

    /// Ends it; how many reads its replicas and its primary served.
    pub(crate) async fn finish(mut self) -> anyhow::Result<(u64, u64)> {
        drop(self.questions);
        let shares = self.shares.await.context("the other process said nothing at its end")?;
        self.child.wait().await?;
        Ok(shares)
    }
}

async fn send(mut stdin: ChildStdin, mut asked: mpsc::Receiver<String>) {
    while let Some(question) = asked.recv().await {
        if stdin.write_all(question.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn receive(stdout: impl AsyncBufReadExt + Unpin, waiting: Waiting, share: oneshot::Sender<(u64, u64)>) {
    let mut lines = stdout.lines();
    let mut share = Some(share);
    while let Ok(Some(line)) = lines.next_line().await {
        let mut words = line.split(' ');
        match words.next() {
            Some(MARK) => {
                let mut number = || words.next()?.parse::<u64>().ok();
                let parsed = number().zip(number());
                let token = words.next().and_then(|token| token.parse().ok());
                if let (Some((number, n)), Some(token)) = (parsed, token) {
                    let asker = waiting.lock().remove(&number);
                    // An asker that has gone needs no answer.
                    let _ = asker.map(|asker| asker.send(Ok(Answer { n: n as i64, token })));
                }
            }
            // An asker that is never answered would wait for ever.
            Some(FAILED) => {
                let number = words.next().and_then(|number| number.parse().ok());
                let asker = number.and_then(|number: u64| waiting.lock().remove(&number));
                let why = words.collect::<Vec<_>>().join(" ");
                let _ = asker.map(|asker| asker.send(Err(anyhow!("the other process: {why}"))));
            }
            Some("shares") => {
                let mut number = || words.next()?.parse::<u64>().ok();
                if let (Some(shares), Some(share)) = (number().zip(number()), share.take()) {
                    let _ = share.send(shares);
                }
            }
            _ => {}
        }
    }
    // Nobody will be answered any more.
    waiting.lock().clear();
}

/// What the other process does until its input ends.
pub(crate) async fn serve(urls: &str) -> anyhow::Result<Verdict> {
    let Some((primary, replicas)) = urls.split_once(',') else {
        bail!("{URLS} names no replicas");
    };
    let db = connect(primary, replicas).await?;
    let mut lines: Lines<BufReader<Stdin>> = BufReader::new(tokio::io::stdin()).lines();
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let db = db.clone();
        tasks.spawn(async move {
            let number = line.split(' ').next().unwrap_or_default();
            if let Err(error) = answer(&db, &line).await {
                println!("{FAILED} {number} {}", format!("{error:#}").replace('\n', " "));
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    let stats = db.replicas();
    println!("shares {} {}", stats.replica_reads, stats.fallbacks);
    db.close().await;
    Ok(Verdict {
        passed: true,
        figures: "the other process".to_owned(),
    })
}

async fn answer(db: &db_stack::Db, line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let mut word = || words.next().context("a short question");
    let (number, id, token) = (word()?, word()?.parse()?, word()?.parse()?);
    let session = db.session_from(token);
    let n = read(&session, id).await.context("reading")?;
    let mut tries = 0;
    let token = loop {
        match session.token().await {
            Ok(token) => break token.context("a session from a token has one")?,
            // A machine with too little time answers late.
            Err(_) if tries < 10 => tries += 1,
            Err(error) => return Err(error).with_context(|| format!("its token; {:?}", db.replicas().cluster)),
        }
    };
    println!("{MARK} {number} {n} {token}");
    Ok(())
}
