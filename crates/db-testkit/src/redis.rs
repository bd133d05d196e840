//! A throwaway Redis.

use std::{
    env, fmt, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    account::Account, error::StartError, home::Home, keeper, process::Process, process_tree::POLL, recipe::dress,
};

/// How long it may take to answer.
const START: Duration = Duration::from_secs(10);
/// Ports tried before giving up.
const PORTS: u32 = 20;
/// Programs that will do, in this order.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];

/// A Redis (or Valkey) of its own on a local port, without persistence, thrown away on drop.
pub struct Redis {
    // Before `home`: it must have ended when its folder is removed.
    process: Process,
    program: PathBuf,
    account: Account,
    port: u16,
    home: Home,
}

impl Redis {
    /// The program on this machine; `None` when there is none.
    pub fn program() -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let named = env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name)));
        let usual = NAMES.map(|name| PathBuf::from("/usr/bin").join(name));
        named.chain(usual).find(|path| path.is_file())
    }

    /// Starts one. Cancel safe: dropping the future ends and removes what was started.
    ///
    /// # Errors
    /// [`StartError`] when there is no program, or it does not answer within 10 s.
    pub async fn start() -> Result<Self, StartError> {
        let program = Self::program().ok_or_else(|| {
            StartError::io("find redis-server")(io::Error::new(io::ErrorKind::NotFound, "not on this machine"))
        })?;
        let account = Account::choose()?;
        let home = Home::create(account, false)?;
        for _ in 0..PORTS {
            let port = fastrand::u16(15_000..32_000);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            let mut process = spawn(&program, account, &home, port).await?;
            match ready(&mut process, &home, port).await {
                Ok(()) => {
                    return Ok(Self {
                        process,
                        program,
                        account,
                        port,
                        home,
                    });
                }
                Err(StartError::Exited { log, .. }) if log.contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
        Err(StartError::NoPort { tries: PORTS })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `redis://…` for its first database.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.addr())
    }

    /// Stops it from doing anything, connections stay open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> io::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> io::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Ends it at once; everything that it held is lost.
    ///
    /// # Errors
    /// When it can't be ended.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }

    /// Starts it again on the same port, with nothing in it.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn start_again(&mut self) -> Result<(), StartError> {
        self.process = spawn(&self.program, self.account, &self.home, self.port).await?;
        ready(&mut self.process, &self.home, self.port).await
    }

    /// Asks it, in its own line protocol, and returns the raw answer: for looking at it from beside.
    ///
    /// # Errors
    /// When it does not answer within a second.
    pub async fn ask(&self, words: &[&[u8]]) -> io::Result<Vec<u8>> {
        ask(self.port, words).await
    }
}

async fn spawn(program: &std::path::Path, account: Account, home: &Home, port: u16) -> Result<Process, StartError> {
    let mut command = keeper::mortal_command(program.as_os_str());
    dress(&mut command, account, home);
    let log = home.log().and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = log.map_err(StartError::io("open the log"))?;
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--maxmemory", "256mb"])
        .args(["--maxmemory-policy", "allkeys-lru", "--dir"])
        .arg(home.dir())
        .stdout(out)
        .stderr(err);
    Process::spawn(command).await.map_err(StartError::io("start Redis"))
}

async fn ready(process: &mut Process, home: &Home, port: u16) -> Result<(), StartError> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = process.ended().map_err(StartError::io("wait for Redis"))? {
            return Err(StartError::Exited {
                status: status.to_string(),
                log: home.log_tail(),
            });
        }
        if ask(port, &[b"PING"]).await.is_ok_and(|answer| answer == b"+PONG\r\n") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StartError::NotReady {
                within: START,
                log: home.log_tail(),
            });
        }
        sleep(POLL).await;
    }
}

async fn ask(port: u16, words: &[&[u8]]) -> io::Result<Vec<u8>> {
    const BOUND: Duration = Duration::from_secs(1);
    let talk = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).await?;
        // One read is not always the whole answer: until nothing more comes for a while.
        let mut answer = Vec::new();
        let mut part = vec![0; 16 * 1024];
        loop {
            let quiet = if answer.is_empty() {
                BOUND
            } else {
                Duration::from_millis(30)
            };
            match timeout(quiet, stream.read(&mut part)).await {
                Ok(Ok(0)) | Err(_) => return Ok(answer),
                Ok(Ok(read)) => answer.extend_from_slice(&part[..read]),
                Ok(Err(error)) => return Err(error),
            }
        }
    };
    timeout(BOUND * 2, talk).await?
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
